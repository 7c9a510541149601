"""The loop that runs each stage: pauses, outages, sentences."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import pytest
from sqlalchemy import Engine, event

from daemon.errors import StoreUnavailableError
from daemon.records import IntentKind
from daemon.runtime.heartbeats import Heartbeats
from daemon.runtime.stage import LastSteps, Life, Rests, Step, run_stage
from daemon.store import Control, Store
from daemon.store.commits import Commits


class Counting:
    """Stops the loop after `limit` steps of either kind."""

    name = "counting"
    idle_s = 0.0

    def __init__(self, stop: threading.Event, limit: int = 3) -> None:
        self.steps = self.while_paused = 0
        self._stop = stop
        self._limit = limit

    def step(self, life: Life) -> Step:
        self.steps += 1
        return self._said("stepped")

    def _said(self, sentence: str) -> Step:
        if self.steps + self.while_paused >= self._limit:
            self._stop.set()
        return Step(sentence=sentence)


class NeverIdle(Counting):
    def step_while_paused(self, life: Life) -> Step:
        self.while_paused += 1
        return self._said("kept in line")


class Unstoppable(Counting):
    always_on: Literal[True] = True


class Unreachable(Control):
    """A database that never answers."""

    def __init__(self) -> None:
        pass

    def paused(self, stage: str, *, max_age_s: float = 0.0) -> None:
        raise StoreUnavailableError("away")

    def heartbeat(self, sentences: Mapping[str, str], *, owner: str) -> None:
        raise StoreUnavailableError("away")


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


def _run(stage: Counting, control: Control, stop: threading.Event, last_steps: LastSteps | None = None) -> None:
    beats = Heartbeats(control, owner="test")
    run_stage(
        stage, control=control, commits=Commits(), heartbeats=beats, last_steps=last_steps or LastSteps(), stop=stop
    )


def test_a_stage_steps_until_it_is_stopped_and_says_what_it_did(sqlite_store: Store, stop: threading.Event) -> None:
    stage = Counting(stop)
    _run(stage, sqlite_store.control, stop)
    assert stage.steps == 3
    (beat,) = sqlite_store.control.heartbeats()
    assert (beat.name, beat.owner, beat.sentence) == ("counting", "test", "stepped")


def test_a_paused_stage_makes_no_step_but_is_alive(sqlite_store: Store, stop: threading.Event) -> None:
    sqlite_store.control.pause("counting", actor="op", reason="freeze")
    stage, last_steps = Counting(stop), LastSteps()
    stage.idle_s = 0.01
    threading.Timer(0.2, stop.set).start()
    _run(stage, sqlite_store.control, stop, last_steps)
    assert stage.steps == 0
    assert last_steps.stalled(1.0) == []
    assert sqlite_store.control.heartbeats()[0].sentence == "paused by op: freeze"


def test_a_stage_with_paused_work_goes_on_with_it_while_paused(sqlite_store: Store, stop: threading.Event) -> None:
    sqlite_store.control.pause("all", actor="op", reason="freeze")
    stage = NeverIdle(stop)
    _run(stage, sqlite_store.control, stop)
    assert (stage.steps, stage.while_paused) == (0, 3)
    assert sqlite_store.control.heartbeats()[0].sentence == "paused by op: freeze; kept in line"


def test_an_always_on_stage_ignores_pauses(sqlite_store: Store, stop: threading.Event) -> None:
    sqlite_store.control.pause("all", actor="op", reason="freeze")
    stage = Unstoppable(stop)
    _run(stage, sqlite_store.control, stop)
    assert stage.steps == 3


def test_an_always_on_stage_steps_without_a_database(stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.runtime.stage.STORE_RETRY_S", 0.01)
    stage = Unstoppable(stop)
    _run(stage, Unreachable(), stop)
    assert stage.steps == 3


def test_a_database_outage_is_waited_out_and_looks_alive(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.runtime.stage.STORE_RETRY_S", 0.01)
    stage, last_steps = Counting(stop), LastSteps()
    threading.Timer(0.2, stop.set).start()
    _run(stage, Unreachable(), stop, last_steps)
    assert stage.steps == 0
    assert last_steps.stalled(1.0) == []


class Talkative(Counting):
    """Says a megabyte, until there is room for it."""

    def __init__(self, stop: threading.Event, engine: Engine) -> None:
        super().__init__(stop, limit=4)
        self._engine = engine
        self.seen: list[str | None] = []
        self.last_steps = LastSteps()

    def step(self, life: Life) -> Step:
        self.seen.append(self.last_steps.store_error)
        if self.steps == 1:
            self._engine.dispose()  # new connections have no limit
        self.steps += 1
        return self._said("x" * 1_000_000 + str(self.steps))


def test_a_full_disk_is_known_after_one_step_and_forgotten_after_the_next_write(
    sqlite_store: Store, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.runtime.stage.STORE_RETRY_S", 0.01)
    engine, full = sqlite_store.engine, [True]

    def limit(connection: Any, _record: Any) -> None:
        if full.pop() if full else False:
            connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size instead

    event.listen(engine, "connect", limit)
    engine.dispose()
    stage = Talkative(stop, engine)
    _run(stage, sqlite_store.control, stop, stage.last_steps)

    assert stage.seen[0] is None
    assert "database or disk is full" in str(stage.seen[1])
    assert stage.seen[3] is None


def test_any_other_error_ends_the_stage(sqlite_store: Store, stop: threading.Event) -> None:
    class Broken(Counting):
        def step(self, life: Life) -> Step:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _run(Broken(stop), sqlite_store.control, stop)


def test_a_long_step_shows_life_and_learns_of_the_stop(sqlite_store: Store, stop: threading.Event) -> None:
    last_steps = LastSteps()
    seen: list[tuple[bool, list[str], bool]] = []

    class Long(Counting):
        def step(self, life: Life) -> Step:
            before = life.stopping
            life.heartbeat()
            alive = last_steps.stalled(-1.0)
            stop.set()
            seen.append((before, alive, life.wait(60.0) and life.stopping))
            return Step(sentence="long")

    _run(Long(stop), sqlite_store.control, stop, last_steps)
    assert seen == [(False, ["counting"], True)], "the heartbeat is recorded amid the step"


def test_a_stage_without_progress_is_stalled() -> None:
    last_steps = LastSteps()
    last_steps.mark("slow")
    assert last_steps.stalled(60.0) == []
    assert last_steps.stalled(0.0) == ["slow"]


def test_a_long_step_says_where_it_is_and_not_too_often(sqlite_store: Store, stop: threading.Event) -> None:
    shown: list[str] = []

    class Long(Counting):
        def step(self, life: Life) -> Step:
            for number in range(3):
                life.say(f"at {number}")
                shown.extend(beat.sentence for beat in sqlite_store.control.heartbeats())
            stop.set()
            return Step(sentence="done")

    _run(Long(stop), sqlite_store.control, stop)
    assert shown == ["at 0"] * 3
    assert [beat.sentence for beat in sqlite_store.control.heartbeats()] == ["done"]


def test_a_sentence_that_cannot_be_stored_does_not_stop_the_step(stop: threading.Event) -> None:
    class Long(Unstoppable):
        def step(self, life: Life) -> Step:
            life.say("amid")
            self.steps += 1
            stop.set()
            return Step(sentence="done")

    stage = Long(stop)
    _run(stage, Unreachable(), stop)
    assert stage.steps == 1


class Slept(Commits):
    """Nobody writes, except when it is told. Keeps how long was waited, and waits for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, *, after: int, timeout_s: float) -> None:
        assert after <= self.count
        self.waits.append(timeout_s)


class NoRest(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


IDLE = Step(sentence="nothing to do", rest_s=15.0)


def _rest(rests: Rests, *steps: Step) -> None:
    for step in steps:
        rests.step_starts()
        rests.take(2.0, step)


def test_the_rests_grow_up_to_what_the_stage_says_while_nothing_is_written() -> None:
    commits = Slept()
    _rest(Rests(commits, NoRest()), *[IDLE] * 6)
    assert [wait + 2.0 for wait in commits.waits] == [4.0, 8.0, 15.0, 15.0, 15.0]


def test_a_stage_that_does_not_say_so_rests_for_its_idle_time_alone() -> None:
    commits = Slept()
    _rest(Rests(commits, NoRest()), *[Step(sentence="waits for a server")] * 4)
    assert commits.waits == []


@pytest.mark.parametrize("news", ["written", "worked"])
def test_the_rests_are_short_again_after_work_or_something_written(news: str) -> None:
    commits = Slept()
    rests = Rests(commits, NoRest())
    _rest(rests, *[IDLE] * 4)
    if news == "worked":
        _rest(rests, Step(sentence="did it", worked=True), IDLE)
    else:
        rests.step_starts()
        commits.note()  # during the step, so the step may have missed it
        rests.take(2.0, IDLE)
    commits.waits.clear()
    _rest(rests, IDLE)
    assert commits.waits == [2.0]


class Sleeper:
    """Rests for an hour unless something is written, and stops the loop at its second step."""

    name = "sleeper"
    idle_s = 0.001

    def __init__(self, stop: threading.Event) -> None:
        self.rests, self.steps = threading.Semaphore(0), 0
        self._stop = stop

    def step(self, _life: Life) -> Step:
        self.steps += 1
        if self.steps == 20:
            self._stop.set()
        self.rests.release()
        return Step(sentence="nothing to do", rest_s=3600.0)


def test_a_commit_wakes_a_resting_stage_and_so_does_the_commit_noted_at_the_stop(
    sqlite_store: Store, stop: threading.Event
) -> None:
    stage = Sleeper(stop)
    run = partial(run_stage, stage, control=sqlite_store.control, commits=sqlite_store.changes.commits, stop=stop)
    running = threading.Thread(
        target=partial(run, heartbeats=Heartbeats(sqlite_store.control, owner="test"), last_steps=LastSteps())
    )
    running.start()
    while running.is_alive():
        if stage.rests.acquire(timeout=0.05):
            continue
        sqlite_store.intents.request(IntentKind.TRAIN, actor="op", reason="now")
    assert stage.steps == 20
