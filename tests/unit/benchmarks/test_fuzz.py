"""A short run of `make fuzz`: no message and no rule hurts the process."""

from __future__ import annotations

from tests.benchmarks.fuzz import fuzz


def test_random_messages_and_rules_cost_under_a_second_and_crash_nothing() -> None:
    for figures in fuzz(messages=400, checks=30, seed=1).values():
        assert figures["crashes"] == []
        assert figures["slowest_cpu_ms"] < 1000
