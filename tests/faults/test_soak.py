"""The soak in short: a few whole runs of a real daemon, each with an outage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.soak.__main__ import is_sound, measured
from tests.fixtures.broker import require_broker

RUNS = 3


@pytest.mark.timeout(1200)
def test_runs_with_outages_lose_nothing_and_leave_no_process_thread_or_folder_behind(real_model: Path) -> None:
    require_broker()
    result = measured(model=real_model, runs=RUNS, reports=6, minutes=20.0, backend="sqlite", forked=True)
    assert result["runs"] == RUNS
    assert result["outages"] == {"daemon": 1, "trainer": 1, "database": 1}
    assert is_sound(result), result
    samples = result["samples"]
    assert samples["children"][-1] <= samples["children"][0]
    assert samples["rows.reports"] == [6, 12, 18]
    assert samples["adapters_folders"][-1] <= RUNS
