"""A drill: one thing breaks at one step of a run, comes back, and the run has to end as if nothing had happened."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from daemon.records import AdapterState, IntentKind, ReportState, RunState
from tests.faults.daemons.network import DATABASE, REPLICAS
from tests.faults.daemons.stand import LEASE_S, Late, Stand

Target = Literal["leader", "follower", "database", "replica"]
Fault = Literal["kill", "stop", "partition"]
Step = Literal["intake", "reflection", "preparing", "training", "evaluating", "promoting"]
FAULTS: tuple[tuple[Target, Fault], ...] = (
    ("leader", "kill"),
    ("leader", "stop"),
    ("leader", "partition"),
    ("follower", "kill"),
    ("follower", "stop"),
    ("follower", "partition"),
    ("database", "kill"),
    ("database", "partition"),
    ("replica", "kill"),
    ("replica", "partition"),
)
STEPS: tuple[Step, ...] = get_args(Step)
AWAY_S = 2 * LEASE_S
"""How long a follower, the database or a replica stays away; a leader: until another one leads, and a second more."""
STEP_S, END_S = 90.0, 180.0
TRIES = 4
"""Runs of one round at most: a run that a fault made fail is started again, as an operator would."""


@dataclass(kw_only=True)
class Outcome:
    """What a drill found. `failover_s`: from the fault to the next leader's term; None: the leader was not touched."""

    target: Target
    fault: Fault
    step: Step
    failover_s: float | None = None
    runs: int = 0
    lost: int = 0
    doubled: int = 0
    said: list[str] = field(default_factory=list)
    """What was not as it should be."""

    @property
    def passed(self) -> bool:
        late = self.failover_s is not None and self.failover_s > 2 * LEASE_S
        return not (self.lost or self.doubled or self.said or late)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def drill(stand: Stand, number: int, target: Target, fault: Fault, step: Step) -> Outcome:
    """One round on a stand where nothing is broken."""
    outcome = Outcome(target=target, fault=fault, step=step)
    before = stand.store.runs.find(limit=1)
    last_run = before[0].id if before else 0
    try:
        sent = _until_step(stand, number, step)
        _break(stand, target, fault, outcome)
        _until_promoted(stand, last_run, sent, outcome)
        _check(stand, sent, last_run, outcome)
    except Late as exc:
        outcome.said.append(str(exc))
    return outcome


def _until_step(stand: Stand, number: int, step: Step) -> list[str]:
    """Send the round's reports, start its run, and wait for the step."""
    sent = stand.send_reports(number)
    if step == "intake":
        return sent
    stand.until(lambda: any(_states(stand, sent)), "a report is stored", timeout_s=STEP_S)
    if step == "reflection":
        return sent
    stand.until(lambda: set(_states(stand, sent)) == {ReportState.LESSON}, "they are analysed", timeout_s=STEP_S)
    _train(stand)
    wanted = RunState(step)

    def there() -> bool:
        run = stand.store.runs.active()
        return run is not None and run.state is wanted

    stand.until(there, f"the run is {step}", timeout_s=STEP_S)
    return sent


def _break(stand: Stand, target: Target, fault: Fault, outcome: Outcome) -> None:
    """Break it, and bring it back."""
    if target == "database":
        _break_database(stand, fault)
    elif target == "replica":
        _break_replica(stand, fault)
    else:
        term, leader = stand.term(), stand.leader()
        number = leader if target == "leader" else (leader + 1) % len(stand.daemons)
        began = time.monotonic()
        with _away(stand, number, fault):
            if target == "follower":
                time.sleep(AWAY_S)
                return
            stand.until(lambda: stand.term() > term, "another daemon leads", timeout_s=10 * LEASE_S)
            outcome.failover_s = round(time.monotonic() - began, 2)
            time.sleep(1.0)


@contextmanager
def _away(stand: Stand, number: int, fault: Fault) -> Iterator[None]:
    """A daemon is cut off, stopped or dead during the block."""
    daemon = stand.daemons[number]
    if fault == "partition":
        with stand.net.without_daemon(number):
            yield
    elif fault == "stop":
        daemon.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            daemon.signal(signal.SIGCONT)
    else:
        daemon.kill()
        try:
            yield
        finally:
            daemon.start()


def _break_database(stand: Stand, fault: Fault) -> None:
    if fault == "partition":
        with stand.net.without_address(DATABASE):
            time.sleep(AWAY_S)
        return
    stand.postgres.stop("immediate")
    time.sleep(AWAY_S)
    stand.postgres.start()


def _break_replica(stand: Stand, fault: Fault) -> None:
    if fault == "partition":
        with stand.net.without_address(REPLICAS[0]):
            time.sleep(AWAY_S)
        return
    stand.fakes[0].kill()
    time.sleep(AWAY_S)
    stand.fakes[0].start()


def _until_promoted(stand: Stand, last_run: int, sent: list[str], outcome: Outcome) -> None:
    """Until a run of this round is promoted, and the replicas serve it."""
    waiting = {None, ReportState.QUEUED, ReportState.REFLECTING}
    stand.until(lambda: waiting.isdisjoint(_states(stand, sent)), "intake and analyses end", timeout_s=END_S)
    while not any(run.state is RunState.PROMOTED for run in stand.runs_after(last_run)):
        known = stand.runs_after(last_run)
        if len(known) == TRIES:
            raise Late(f"no run was promoted: {[(run.state.value, run.reason) for run in known]}")
        if stand.store.runs.active() is None:
            _train(stand)
            stand.until(partial(_started, stand, last_run, len(known)), "a run starts", timeout_s=STEP_S)
        stand.until(lambda: stand.store.runs.active() is None, "the run ends", timeout_s=END_S)
    outcome.runs = len(stand.runs_after(last_run))
    stand.until(
        lambda: set(stand.shown()) == {stand.store.adapters.live().name}, "the replicas serve it", timeout_s=END_S
    )


def _started(stand: Stand, last_run: int, known: int) -> bool:
    return len(stand.runs_after(last_run)) > known


def _check(stand: Stand, sent: list[str], last_run: int, outcome: Outcome) -> None:
    states = _states(stand, sent)
    outcome.lost += sum(state is None for state in states)
    promoted = [run for run in stand.runs_after(last_run) if run.state is RunState.PROMOTED]
    live = stand.store.adapters.find(state=AdapterState.LIVE)
    if len(promoted) != 1 or len(live) != 1 or live[0].generation != promoted[0].generation:
        outcome.doubled += abs(len(promoted) - 1) + abs(len(live) - 1)
        outcome.said.append(f"promoted {[run.generation for run in promoted]}, live {[one.generation for one in live]}")
    items = [item.report_id for run in promoted for item in stand.store.runs.items(run.id)]
    outcome.doubled += len(items) - len(set(items))
    if missing := set(sent) - set(items):
        outcome.lost += len(missing)
        outcome.said.append(f"not in the run: {sorted(missing)}")
    wanted = [("lesson.created", one) for one in sent] + [("adapter.promoted", live[0].name)]
    stand.until(lambda: all(one in stand.events() for one in wanted), "the events are delivered", timeout_s=END_S)
    events = stand.events()
    outcome.doubled += sum(len(ids) - 1 for key, ids in events.items() if key in wanted)


def _train(stand: Stand) -> None:
    stand.store.intents.request(IntentKind.TRAIN, actor="drill", reason="the round's run")


def _states(stand: Stand, sent: list[str]) -> list[ReportState | None]:
    return [None if found is None else found.state for found in map(stand.stored, sent)]
