"""The measurement of what operations cost as the store grows."""

from __future__ import annotations

from tests.benchmarks.store.__main__ import FLOOR_MS, growth, measured


def test_growth_is_the_largest_store_over_the_smallest_and_noise_is_none() -> None:
    costs = {
        10: {"slow": 10.0, "tiny": FLOOR_MS / 10},
        100: {"slow": 20.0, "tiny": FLOOR_MS / 2},
        1000: {"slow": 30.0, "tiny": 1.5 * FLOOR_MS},
    }
    found = growth("sqlite", costs)
    assert found["growth"] == {"slow": 3.0, "tiny": 1.5}
    assert found["worst"] == ["slow", 3.0]
    assert found["rows"] == [10, 1000]


def test_every_operation_runs_on_a_filled_store() -> None:
    costs = measured("sqlite", 300)
    assert {"claim", "gauges", "status", "intake"} <= set(costs)
    assert all(cost > 0 for cost in costs.values())
