"""A stage that runs only on the leader."""

from __future__ import annotations

from daemon.runtime.leader import Leader, LeaderOnly
from daemon.runtime.stage import Closable, Life, Step
from daemon.store import Store
from tests.fixtures.life import life


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
    leader, stage = Leader(sqlite_store.control, "here"), Holding()
    led = LeaderOnly(stage, leader)
    assert isinstance(led, Closable)
    led.close()
    assert stage.closed == 1
    LeaderOnly(Plain(), leader).close()


def test_only_the_leading_daemon_steps_and_does_paused_work(sqlite_store: Store) -> None:
    leader = Leader(sqlite_store.control, "here")
    led = LeaderOnly(Holding(), leader)
    standing_by = "standing by: another daemon leads"
    assert (led.step(life()).sentence, led.step_while_paused(life()).sentence) == (standing_by, standing_by)
    leader._renew()
    assert (led.step(life()).sentence, led.step_while_paused(life()).sentence) == ("stepped", "kept in line")
    assert LeaderOnly(Plain(), leader).step_while_paused(life()).sentence == "no step is made"
