"""The store's invariants hold after each of any legal operations in any order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from connectors.messages import FlaggedResponse
from daemon.errors import IllegalTransitionError, LeaseLostError
from daemon.records import ACTIVE_RUN_STATES, AdapterState, ReportState, Run, RunItem, RunState, Split, Verdict, utcnow
from daemon.retest import OUTCOMES
from daemon.store import Store, schema
from daemon.store.engine import reading
from daemon.store.reports import Claim
from daemon.transitions import ADAPTER_TRANSITIONS, REPORT_TRANSITIONS, RUN_TRANSITIONS
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, lesson, mark, quarantine, start_run

NUMBERS = st.integers(min_value=0, max_value=7)
MACHINES: dict[str, Any] = {"reports": REPORT_TRANSITIONS, "adapters": ADAPTER_TRANSITIONS, "runs": RUN_TRANSITIONS}


class Daemon(RuleBasedStateMachine):
    """Random operations of every stage and operator on one store."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.sent: dict[str, FlaggedResponse] = {}
        self.claims: list[Claim] = []
        self.before: dict[str, dict[Any, str]] = {}

    # --- intake and reflection ---

    @rule(number=NUMBERS, same_answer=st.booleans(), cap=st.sampled_from([3, 1000]))
    def send(self, number: int, same_answer: bool, cap: int) -> None:
        text = "the same" if same_answer else f"answer {number}"
        message = flagged(
            id=f"report-{number}", messages=[{"role": "user", "content": text}], response=text, reporter="r"
        )
        add(self.store, message, reporter_cap=cap)
        self.sent.setdefault(message.id, message)

    @rule(limit=st.integers(min_value=1, max_value=3), lease_s=st.sampled_from([0, 600]))
    def claim(self, limit: int, lease_s: float) -> None:
        claims = self.store.reports.claim(owner=f"w{len(self.claims)}", limit=limit, lease_s=lease_s)
        assert len({claim.report.id for claim in claims}) == len(claims)
        self.claims += claims

    @precondition(lambda self: self.claims)
    @rule(pick=NUMBERS, ending=st.sampled_from(["complete", "retry", "bury"]))
    def end_claim(self, pick: int, ending: str) -> None:
        claim = self.claims[pick % len(self.claims)]
        with suppress(LeaseLostError):
            if ending == "complete":
                self.store.reports.complete(claim, lesson(claim.report.id))
            elif ending == "retry":
                self.store.reports.retry(claim, at=utcnow() - timedelta(seconds=1), reason="again")
            else:
                self.store.reports.bury(claim, reason="enough")

    # --- operators ---

    @precondition(lambda self: self.sent)
    @rule(pick=NUMBERS, action=st.sampled_from(["requeue", "quarantine", "erase"]))
    def steer(self, pick: int, action: str) -> None:
        with suppress(IllegalTransitionError):
            if action == "quarantine":
                quarantine(self.store, self._sent(pick))
            else:
                getattr(self.store.reports, action)(self._sent(pick), actor="op", reason="why not")

    @precondition(lambda self: self.sent)
    @rule(pick=NUMBERS, state=st.sampled_from(OUTCOMES))
    def mark_outcome(self, pick: int, state: ReportState) -> None:
        mark(self.store, [self._sent(pick)], state, generation=1)

    @rule(pick=NUMBERS)
    def roll_back(self, pick: int) -> None:
        live = self.store.adapters.live().generation
        known = {adapter.generation for adapter in self.store.adapters.find()}
        with suppress(IllegalTransitionError):
            self.store.adapters.roll_back(
                sorted(known)[pick % len(known)], expected_live=live, actor="op", reason="bad"
            )

    @rule(pick=NUMBERS)
    def approve(self, pick: int) -> None:
        known = sorted(adapter.generation for adapter in self.store.adapters.find())
        with suppress(IllegalTransitionError):
            self.store.adapters.approve(known[pick % len(known)], actor="admin", reason="forged flags")

    # --- one run, step by step ---

    @rule()
    def start(self) -> None:
        active = self.store.runs.active()
        assert (start_run(self.store) is None) == (active is not None)

    @rule(
        steps=st.integers(min_value=1, max_value=5),
        failing=st.integers(min_value=0, max_value=9),
        accepted=st.booleans(),
        split=st.sampled_from(Split),
    )
    def advance(self, steps: int, failing: int, accepted: bool, split: Split) -> None:
        for step in range(steps):
            self._advance(failing=step == failing, accepted=accepted, split=split)
            self.every_row_made_at_most_one_legal_change()

    def _advance(self, *, failing: bool, accepted: bool, split: Split) -> None:
        run = self.store.runs.active() or start_run(self.store)
        assert run is not None
        if failing:
            self.store.runs.failed(run.id, reason="a fault")
        elif run.state == RunState.PREPARING:
            self._prepare(run, split)
        elif run.state == RunState.TRAINING:
            self.store.runs.trained(run.id, path=Path("/a"), sha256="0" * 64)
        elif run.state == RunState.EVALUATING:
            self._decide(run, accepted=accepted)
        else:
            live = self.store.adapters.live().generation
            self.store.adapters.promote(run.generation, expected_live=live, actor="gate", reason="better")

    def _prepare(self, run: Run, split: Split) -> None:
        for report, _ in self.store.reports.trainable(limit=100):
            if report.cluster_id is None:
                self.store.clusters.open(report_id=report.id, category="c", leader_text="t", split=split)
        splits = {cluster.id: cluster.split for cluster in self.store.clusters.all()}
        self.store.runs.prepared(
            run.id,
            [
                RunItem(
                    run_id=run.id, report_id=report.id, cluster_id=report.cluster_id, role=splits[report.cluster_id]
                )
                for report, _ in self.store.reports.trainable(limit=100)
                if report.cluster_id is not None
            ],
        )

    def _decide(self, run: Run, *, accepted: bool) -> None:
        self.store.runs.decided(
            Verdict(
                run_id=run.id,
                generation=run.generation,
                accepted=accepted,
                reasons=("r",),
                figures={},
                decided_at=utcnow(),
            )
        )

    def _sent(self, pick: int) -> str:
        return sorted(self.sent)[pick % len(self.sent)]

    # --- what holds after every step ---

    @invariant()
    def one_generation_is_live_and_has_its_evidence(self) -> None:
        [live] = self.store.adapters.find(state=AdapterState.LIVE)
        if live.run_id is not None:
            verdict = self.store.runs.verdict(live.run_id)
            assert verdict is not None
            assert verdict.accepted

    @invariant()
    def at_most_one_run_is_active(self) -> None:
        assert sum(run.state in ACTIVE_RUN_STATES for run in self.store.runs.find()) <= 1

    @invariant()
    def every_message_sent_is_stored_as_it_first_came(self) -> None:
        reports = {report.id: report for report in self.store.reports.find(limit=100)}
        assert reports.keys() == self.sent.keys()
        for report in reports.values():
            assert report.state == ReportState.ERASED or report.flagged == self.sent[report.id]

    @invariant()
    def a_report_has_a_lesson_where_its_state_says_so(self) -> None:
        for report in self.store.reports.find(limit=100):
            if report.state in {ReportState.LESSON, *OUTCOMES}:
                assert self.store.reports.lesson(report.id) is not None
            if report.state == ReportState.ERASED:
                assert self.store.reports.lesson(report.id) is None

    @invariant()
    def no_item_is_on_another_side_than_its_cluster(self) -> None:
        splits = {cluster.id: cluster.split for cluster in self.store.clusters.all()}
        for run in self.store.runs.find():
            assert all(item.role == splits[item.cluster_id] for item in self.store.runs.items(run.id))

    @invariant()
    def every_row_made_at_most_one_legal_change(self) -> None:
        for machine, transitions in MACHINES.items():
            table = schema.metadata.tables[machine]
            [key] = table.primary_key.columns
            with reading(self.store.engine) as connection:
                now = {row[0]: row[1] for row in connection.execute(select(key, table.c.state))}
            for row, old in self.before.get(machine, {}).items():
                assert now[row] == old or now[row] in transitions[old]
            self.before[machine] = now

    def teardown(self) -> None:
        self.store.close()


@pytest.mark.slow
def test_random_operations_keep_the_invariants(new_store: Callable[[], Store]) -> None:
    run_state_machine_as_test(
        lambda: Daemon(new_store()),
        settings=settings(
            max_examples=8, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
