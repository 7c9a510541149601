"""The heartbeats of all stages: one write, one look at the pauses."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Event

import pytest

from daemon.errors import StoreUnavailableError
from daemon.runtime import heartbeats
from daemon.runtime.heartbeats import Heartbeats
from daemon.runtime.stage import LastSteps, Life, Step, run_stage
from daemon.store import Control, Store
from tests.fixtures.stores import statements

STAGES = [f"stage-{number}" for number in range(20)]


def test_the_heartbeats_of_all_stages_are_one_statement(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Heartbeats(sqlite_store.control, owner="here")
    beats.beat(STAGES[0], "starts")
    with statements(sqlite_store) as sent:
        for name in STAGES[:-1]:
            beats.beat(name, "idle")
        assert sent == [], "within the interval nothing is written"
        monkeypatch.setattr(heartbeats, "HEARTBEAT_INTERVAL_S", 0.0)
        beats.beat(STAGES[-1], "idle")
    assert len(sent) == 1
    assert {beat.name: beat.sentence for beat in sqlite_store.control.heartbeats()} == dict.fromkeys(STAGES, "idle")


def test_news_is_written_at_once_with_what_waits(sqlite_store: Store) -> None:
    beats = Heartbeats(sqlite_store.control, owner="here")
    beats.beat("one", "idle")
    beats.beat("two", "idle")
    beats.beat("three", "trained", at_once=True)
    assert {beat.name for beat in sqlite_store.control.heartbeats()} == {"one", "two", "three"}


class _Away(Control):
    """A database that comes back."""

    def __init__(self) -> None:
        self.away = True
        self.written: list[Mapping[str, str]] = []

    def heartbeat(self, sentences: Mapping[str, str], *, owner: str) -> None:
        if self.away:
            raise StoreUnavailableError("away")
        self.written.append(sentences)


def test_what_could_not_be_written_goes_with_the_next_heartbeat() -> None:
    control = _Away()
    beats = Heartbeats(control, owner="here")
    for _ in range(2):  # each try is made, so that each stage learns of the outage
        with pytest.raises(StoreUnavailableError):
            beats.beat("one", "idle")
    control.away = False
    beats.beat("two", "idle")
    assert control.written == [{"one": "idle", "two": "idle"}]


class _Idle:
    idle_s = 0.0

    def __init__(self, name: str, stop: Event) -> None:
        self.name = name
        self._stop = stop
        self._steps = 0

    def step(self, _life: Life) -> Step:
        self._steps += 1
        if self._steps == 5:
            self._stop.set()
        return Step(sentence="idle")


def test_idle_stages_ask_once_for_the_pauses_and_write_their_first_sentence_only(sqlite_store: Store) -> None:
    beats = Heartbeats(sqlite_store.control, owner="here")
    with statements(sqlite_store) as sent:
        for name in STAGES:
            stop = Event()
            run_stage(
                _Idle(name, stop),
                control=sqlite_store.control,
                commits=sqlite_store.changes.commits,
                heartbeats=beats,
                last_steps=LastSteps(),
                stop=stop,
            )
    writes = [one for one in sent if one.startswith("INSERT")]
    assert len(writes) == len(STAGES)
    assert len(sent) - len(writes) <= 5, "a look at the pauses serves all stages for a second"


def test_a_pause_of_this_process_shows_at_once(sqlite_store: Store) -> None:
    control = sqlite_store.control
    assert control.paused("ingest", max_age_s=60) is None
    control.pause("ingest", actor="op", reason="freeze")
    assert control.paused("ingest", max_age_s=60) is not None
    control.resume("ingest", actor="op", reason="over")
    assert control.paused("ingest", max_age_s=60) is None
