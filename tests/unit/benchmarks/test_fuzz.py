"""A short run of `make fuzz`: no message and no rule hurts the process."""

from __future__ import annotations

from tests.benchmarks.fuzz import fuzz, problems


def test_random_messages_and_rules_cost_under_a_second_and_crash_nothing() -> None:
    for figures in fuzz(messages=400, checks=30, seed=1).values():
        assert figures["crashes"] == []
        assert figures["slowest_cpu_ms"] < 1000
        assert len(figures["memory_mib"]) == 3


def test_a_crash_a_slow_item_and_growing_memory_are_problems() -> None:
    good = {"crashes": [], "slowest_cpu_ms": 900, "memory_mib": [40, 90, 95]}
    assert problems(good) == []
    assert problems({**good, "crashes": ["x"]}) == ["x"]
    assert problems({**good, "slowest_cpu_ms": 1001}) == ["1001 ms"]
    assert problems({**good, "memory_mib": [40, 50, 200]}) == ["150 MiB more memory"]
