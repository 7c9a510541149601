"""A stage that runs only on the leader."""

from __future__ import annotations

from collections.abc import Callable

from connectors.vllm import VllmServer
from daemon.runtime.leader import LEASE_NAME, Leader, LeaderOnly, current_number
from daemon.runtime.stage import Closable, Life, Step
from daemon.store import Store
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.life import life

STANDING_BY = "standing by: another daemon leads"


class Plain:
    name = "plain"
    idle_s = 0.0

    def step(self, _life: Life) -> Step:
        return Step(sentence="stepped")


class Holding(Plain):
    def __init__(self) -> None:
        self.closed = 0

    def step_while_paused(self, _life: Life) -> Step:
        return Step(sentence="kept in line")

    def close(self) -> None:
        self.closed += 1


def test_a_stage_that_holds_something_is_closed_through_its_leadership(sqlite_store: Store) -> None:
    leader, stage = Leader(sqlite_store.control, sqlite_store.changes.commits, "here", lease_s=30.0), Holding()
    led = LeaderOnly(stage, leader)
    assert isinstance(led, Closable)
    led.close()
    assert stage.closed == 1
    LeaderOnly(Plain(), leader).close()


def test_only_the_leading_daemon_steps_and_does_paused_work(sqlite_store: Store) -> None:
    leader = Leader(sqlite_store.control, sqlite_store.changes.commits, "here", lease_s=30.0)
    led = LeaderOnly(Holding(), leader)
    assert (led.step(life()).sentence, led.step_while_paused(life()).sentence) == (STANDING_BY, STANDING_BY)
    leader._renew()
    assert (led.step(life()).sentence, led.step_while_paused(life()).sentence) == ("stepped", "kept in line")
    assert LeaderOnly(Plain(), leader).step_while_paused(life()).sentence == "no step is made"


class Writing(Plain):
    """Writes at the end of its step; `meanwhile` happens amid it."""

    def __init__(self, store: Store, meanwhile: Callable[[], object]) -> None:
        self._store = store
        self._meanwhile = meanwhile
        self.terms: list[int | None] = []

    def step(self, _life: Life) -> Step:
        self.terms.append(current_number())
        self._meanwhile()
        self._store.control.pause("ingest", actor="a step", reason="to write something")
        return Step(sentence="wrote")


def test_a_step_that_goes_on_after_another_daemon_leads_writes_nothing(sqlite_store: Store) -> None:
    control = sqlite_store.control
    leader = Leader(control, sqlite_store.changes.commits, "here", lease_s=30.0)
    leader._renew()
    stage = Writing(sqlite_store, lambda: None)
    assert LeaderOnly(stage, leader).step(life()).sentence == "wrote"
    control.resume("ingest", actor="test", reason="undone")

    def lose() -> None:
        control.abdicate(LEASE_NAME, owner="here")
        assert control.lead(LEASE_NAME, owner="there", ttl_s=60) is not None

    late = Writing(sqlite_store, lose)
    assert LeaderOnly(late, leader).step(life()).sentence == STANDING_BY
    assert control.pauses() == []
    assert late.terms == stage.terms != [None]
    assert current_number() is None
    leader._renew()
    assert leader.term is None


def test_a_step_that_a_server_refuses_as_deposed_stands_by(
    sqlite_store: Store, make_client: Callable[..., VllmServer]
) -> None:
    leader = Leader(sqlite_store.control, sqlite_store.changes.commits, "here", lease_s=30.0)
    leader._renew()
    with FakeVllm(admin_token=ADMIN_TOKEN) as fake:
        client = make_client(fake.url, term=current_number)
        stage = Writing(sqlite_store, lambda: client.set_live("aligned-g000000", expected=None))
        led = LeaderOnly(stage, leader)
        assert led.step(life()).sentence == "wrote"
        assert leader.term is not None
        assert make_client(fake.url, term=lambda: leader.term.number + 1).ready()
        assert led.step(life()).sentence == STANDING_BY
        client.close()


def test_the_stages_are_woken_when_their_daemon_becomes_the_leader_and_not_when_it_stays_it(
    sqlite_store: Store,
) -> None:
    commits = sqlite_store.changes.commits
    leader = Leader(sqlite_store.control, commits, "here", lease_s=30.0)
    before = commits.count
    leader._renew()
    assert commits.count == before + 1
    leader._renew()
    assert commits.count == before + 1
