"""The drills in their short form: a stopped leader, and a leader that is cut off; `make drill-daemons` makes all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.daemons.drill import drill
from tests.faults.daemons.stand import stand
from tests.fixtures.namespaces import NoNamespaces


@pytest.mark.timeout(900)
def test_a_leader_that_is_stopped_or_cut_off_loses_its_lead_and_nothing_else(tiny_model: Path, tmp_path: Path) -> None:
    try:
        with stand(tmp_path, tiny_model) as made:
            outcomes = [
                drill(made, 1, "leader", "stop", "training"),
                drill(made, 2, "leader", "partition", "promoting"),
            ]
            logs = "".join(daemon.log.read_text() for daemon in made.daemons)
    except NoNamespaces as exc:
        pytest.skip(str(exc))  # no installation can give a machine the right to it
    for outcome in outcomes:
        assert (outcome.lost, outcome.doubled, outcome.said) == (0, 0, [])
        assert outcome.failover_s is not None
    assert "Traceback" not in logs
