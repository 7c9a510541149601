"""A short run of `make fuzz`: no message and no rule hurts the process."""

from __future__ import annotations

import json

from tests.benchmarks.fuzz import fuzz, problems, size


def test_random_messages_and_rules_cost_under_a_second_and_crash_nothing() -> None:
    for figures in fuzz(messages=400, checks=30, seed=1, flood_bytes=10_000).values():
        assert figures["crashes"] == []
        assert figures["slowest_cpu_ms"] < 1000
        assert len(figures["memory_mib"]) == 3


def test_a_crash_a_slow_item_and_growing_memory_are_problems() -> None:
    good = {"crashes": [], "slowest_cpu_ms": 900, "memory_mib": [40, 90, 95]}
    assert problems(good) == []
    assert problems({**good, "crashes": ["x"]}) == ["x"]
    assert problems({**good, "slowest_cpu_ms": 1001}) == ["1001 ms"]
    assert problems({**good, "memory_mib": [40, 50, 200]}) == ["150 MiB more memory"]


def test_the_size_of_rules_is_that_of_their_json_without_writing_it() -> None:
    rules: dict = {"pattern": "a\u0301", "enum": [1.5, None, True]}
    assert abs(size(rules) - len(json.dumps(rules))) < 20
    for _ in range(40):
        rules = {"allOf": [rules] * 10}
    assert size(rules) > 10**40
