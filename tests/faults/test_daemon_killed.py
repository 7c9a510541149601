"""SIGKILL to the daemon in each stage of one run: nothing is lost, nothing happens twice, one generation is live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.vllm import VllmServer
from daemon.records import AdapterState, ReportState, RunState, Split
from daemon.store import Store, open_store
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.config import flagged
from tests.fixtures.daemons import RunningDaemon
from tests.fixtures.stores import waiting_events

REPORTS = 8
WRONG = "This response is wrong because the town that it names is not the capital; a good response names the real one."
KILLED_IN = (RunState.PREPARING, RunState.TRAINING, RunState.EVALUATING, RunState.PROMOTING)


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    """The base model errs (and analyses well enough); a trained generation gives the right answer."""
    del messages
    return "The right answer is Utopia." if model.startswith("aligned-g") else WRONG


@pytest.fixture
def slow_vllm(tmp_path: Path) -> Iterator[FakeVllm]:
    """A server slow enough for a kill to hit each stage in the middle."""
    with FakeVllm(answer=answer) as fake:
        fake.facts_dir = tmp_path / "var" / "chat"
        fake.token_delay_s = 0.01
        yield fake


@pytest.mark.timeout(600)
def test_a_daemon_killed_in_every_stage_loses_and_repeats_nothing(
    slow_vllm: FakeVllm,
    tiny_model: Path,
    make_daemon: Callable[..., RunningDaemon],
    make_client: Callable[..., VllmServer],
) -> None:
    daemon = make_daemon(
        environment={"FAKE_TOKEN": ADMIN_TOKEN},
        model={"path": str(tiny_model)},
        reflection={"analyst": "self", "lease_s": 4.0, "request_timeout_s": 1.0, "max_tokens": 64, "max_attempts": 6},
        serving={"mode": "attached", "urls": [slow_vllm.url], "admin_token_env": "FAKE_TOKEN", "port": 8000},
        training={"epochs": 4},
    )
    store = _submit(daemon)
    _kill_when(daemon, lambda: store.reports.counts()[ReportState.REFLECTING] > 0)
    daemon.until(lambda: store.reports.counts()[ReportState.LESSON] == REPORTS)
    daemon.post("/api/train", {"reason": "test"})
    for state in KILLED_IN:
        _kill_when(daemon, lambda state=state: _active_state(store) == state)
    daemon.until(lambda: store.adapters.live().generation == 1)
    daemon.until(lambda: make_client(slow_vllm.url).state().live == "aligned-g000001")
    assert daemon.stop() == 0
    _assert_one_clean_run(store)
    store.close()


def _submit(daemon: RunningDaemon) -> Store:
    daemon.start()
    daemon.until(lambda: bool(daemon.get("/livez")))
    reports = [flagged(checks={"must_contain": ["Utopia"]}, correction="It is Utopia.") for _ in range(REPORTS)]
    for report in reports:
        response = daemon.post("/v1/feedback", report.model_dump(mode="json", exclude_none=True))
        assert response.status_code == 202
    return open_store(f"sqlite:///{daemon.config_path.parent / 'var' / 'erratad.sqlite3'}")


def _kill_when(daemon: RunningDaemon, holds: Callable[[], bool]) -> None:
    daemon.until(holds, poll_s=0.005)
    daemon.kill()
    daemon.start()


def _active_state(store: Store) -> RunState | None:
    active = store.runs.active()
    return None if active is None else active.state


def _assert_one_clean_run(store: Store) -> None:
    counts = store.reports.counts()
    assert counts[ReportState.RESOLVED] == REPORTS
    assert sum(counts.values()) == REPORTS
    (run,) = store.runs.find()
    assert run.state == RunState.PROMOTED
    assert {adapter.generation: adapter.state for adapter in store.adapters.find()} == {
        1: AdapterState.LIVE,
        0: AdapterState.RETIRED,
    }
    assert Counter(item.role for item in store.runs.items(run.id)).total() == REPORTS
    assert all(item.role in {Split.TRAIN, Split.HOLDOUT} for item in store.runs.items(run.id))
    events = Counter(event.type for event in waiting_events(store, limit=1000))
    assert events == {"lesson.created": REPORTS, "adapter.promoted": 1, "report.resolved": REPORTS}
    answers = store.runs.answers(run.id)
    keys = [(a.suite, a.item_id, a.arm, a.guided, a.sample) for a in answers]
    assert len(keys) == len(set(keys)) > 0
