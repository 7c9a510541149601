"""Stage "promotion": makes a measured candidate live on every server, rolls back, and reconciles the servers.

The protocol: verify the folder, load and probe it on all servers, flip all of them by compare-and-swap, commit in the
store. A failure before the commit undoes every flip. The store is the truth: after a crash, the next step first brings
the servers to the store's live generation, and then tries the interrupted promotion again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import structlog

from connectors.chat import EndpointError
from daemon import metrics
from daemon.config.rollout import RolloutConfig
from daemon.config.serving import ServingConfig
from daemon.errors import (
    AdapterInvalidError,
    IllegalTransitionError,
    NotFoundError,
    PromotionError,
    ServingError,
)
from daemon.promotion.rollout import Rollout
from daemon.promotion.swap import FleetState, Reconciler, flipped, load_and_probe
from daemon.promotion.trial import Action, Ruling
from daemon.records import (
    ACTOR,
    BASE_GENERATION,
    Adapter,
    AdapterState,
    Intent,
    IntentKind,
    IntentState,
    Run,
    RunState,
    Verdict,
    utcnow,
)
from daemon.runtime.backoff import Backoff
from daemon.runtime.stage import Life, Step
from daemon.serving.fleet import Fleet
from daemon.store import Store
from daemon.store.adapters import Fulfilled
from daemon.store.flags import Electorate
from daemon.store.runs import strengths_of

log = structlog.get_logger(__name__)

LOOK_INTERVAL_S = 0.25
"""Interval of looking for intents while others write. Servers are called once per `serving.reconcile_interval_s`."""
INTENTS_MAX_AGE_S = 10.0
"""The intents are read again after this time, though nothing was written."""
RETRY_LIMIT_S = 60.0
GIVE_UP_AFTER_S = 1800.0
"""A promotion that still fails this long after the verdict ends as failed, so that new runs can start ..."""
GIVE_UP_ATTEMPTS = 5
"""... but only after this number of attempts by this process, because the stage may have been paused meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """The result of an attempt; `pending`: it is tried again."""

    state: IntentState
    sentence: str


class PromotionStage:
    """Acts on runs in state `promoting` and on the intents `promote` and `rollback`."""

    name = "promotion"

    def __init__(
        self, *, store: Store, fleet: Fleet, config: RolloutConfig, serving: ServingConfig, voters: Electorate
    ) -> None:
        self._interval_s = serving.reconcile_interval_s
        self.idle_s = min(LOOK_INTERVAL_S, self._interval_s)
        self._store = store
        self._fleet = fleet
        self._reconciler = Reconciler(serving=serving, store=store, fleet=fleet)
        self._rollout = Rollout(config=config, store=store, fleet=fleet, reconciler=self._reconciler, voters=voters)
        self._attempts = (0, 0)
        self._backoff = Backoff(first_s=2 * self._interval_s, limit_s=RETRY_LIMIT_S)
        self._not_before = 0.0
        self._reconcile_at = 0.0
        self._last_sentence = ""

    def step(self, _life: Life) -> Step:
        return self._remembered(self._roll_back_on_request() or self._promote_on_request() or self._routine())

    def step_while_paused(self, _life: Life) -> Step:
        """While paused: promotions wait, but rollbacks and the repair of servers go on."""
        return self._remembered(self._roll_back_on_request() or self._repair())

    def _remembered(self, step: Step) -> Step:
        """After a change, reconcile at once: a generation may have to be unloaded."""
        self._last_sentence = step.sentence
        if step.worked:
            self._reconcile_at = 0.0
        return replace(step, rest_s=self._reconcile_at - time.monotonic())

    def _routine(self) -> Step:
        """Reconcile the servers and try to promote the waiting run, once per interval."""
        if time.monotonic() < self._reconcile_at:
            return Step(sentence=self._last_sentence)
        live, fleet_state = self._reconciled()
        run = self._store.runs.active()
        if run is not None and run.state == RunState.PROMOTING and time.monotonic() >= self._not_before:
            outcome = self._promote(run, live, fleet_state)
            return Step(sentence=outcome.sentence, worked=outcome.state != IntentState.PENDING)
        return Step(sentence=_live_on(live, fleet_state))

    def _repair(self) -> Step:
        due = time.monotonic() >= self._reconcile_at
        return Step(sentence=_live_on(*self._reconciled()) if due else self._last_sentence)

    def _roll_back_on_request(self) -> Step | None:
        intent = self._store.intents.pending(IntentKind.ROLLBACK, max_age_s=INTENTS_MAX_AGE_S)
        return None if intent is None else self._finish(intent, self._roll_back(intent))

    def _promote_on_request(self) -> Step | None:
        intent = self._store.intents.pending(IntentKind.PROMOTE, max_age_s=INTENTS_MAX_AGE_S)
        return None if intent is None else self._finish(intent, self._promote_now(intent, *self._reconciled()))

    def _reconciled(self) -> tuple[Adapter, FleetState]:
        self._reconcile_at = time.monotonic() + self._interval_s
        live = self._store.adapters.live()
        _show(live)
        return live, self._reconciler.repair(live)

    def _finish(self, intent: Intent, outcome: AttemptResult) -> Step:
        if outcome.state != IntentState.PENDING:
            self._store.intents.finish(intent.id, outcome.state, outcome.sentence)
            log.info("intent", id=intent.id, kind=intent.kind, state=outcome.state, outcome=outcome.sentence)
        return Step(sentence=outcome.sentence, worked=outcome.state != IntentState.PENDING)

    # --- promotion ---

    def _promote_now(self, intent: Intent, live: Adapter, fleet_state: FleetState) -> AttemptResult:
        run = self._store.runs.active()
        if run is None or run.state != RunState.PROMOTING or intent.target_generation not in {None, run.generation}:
            return AttemptResult(state=IntentState.REFUSED, sentence=self._why_not(intent.target_generation, run))
        outcome = self._promote(run, live, fleet_state, intent)
        if outcome.state == IntentState.PENDING:
            return AttemptResult(
                state=IntentState.REFUSED, sentence=f"not now, but it is tried again: {outcome.sentence}"
            )
        return outcome

    def _why_not(self, generation: int | None, run: Run | None) -> str:
        rule = "only a candidate that has passed the gate of the active run can be promoted"
        if generation is not None:
            try:
                return f"generation {generation} is {self._store.adapters.get(generation).state}: {rule}"
            except NotFoundError as exc:
                return str(exc)
        return f"no run is active: {rule}" if run is None else f"run {run.id} is still {run.state}: {rule}"

    def _promote(self, run: Run, live: Adapter, fleet_state: FleetState, intent: Intent | None = None) -> AttemptResult:
        try:
            return self._attempt(run, live, fleet_state, intent)
        except IllegalTransitionError as exc:  # an operator rejected the candidate during the attempt
            return AttemptResult(state=IntentState.REFUSED, sentence=f"the candidate's state changed meanwhile: {exc}")

    def _attempt(self, run: Run, live: Adapter, fleet_state: FleetState, intent: Intent | None) -> AttemptResult:
        candidate, verdict = self._store.adapters.get(run.generation), self._store.runs.verdict(run.id)
        measured = None if verdict is None else verdict.figures.get("live_generation")
        if verdict is None or measured != live.generation:
            why = f"{candidate.name} was measured against generation {measured}, but {live.generation} is live now"
            self._store.runs.rejected(run.id, reason=why)
            return _run_ended(RunState.REJECTED, f"rejected: {why}; the next run is measured against what is live")
        try:
            ruling = self._ruling(candidate, live, fleet_state, intent)
            if ruling.action == Action.WAIT:
                return AttemptResult(state=IntentState.PENDING, sentence=ruling.reason)
            if ruling.action == Action.REJECT:
                return self._withdraw(run, candidate, live, ruling.reason)
            sentence = self._swap(run, candidate, live, fleet_state, intent=intent, reason=ruling.reason)
        except (AdapterInvalidError, PromotionError) as exc:
            self._store.runs.failed(run.id, reason=str(exc))
            return _run_ended(RunState.FAILED, f"{candidate.name} cannot go live: {exc}")
        except (ServingError, EndpointError, IllegalTransitionError) as exc:
            return self._try_again(run, verdict, str(exc))
        metrics.RUNS.labels(outcome=RunState.PROMOTED).inc()
        return self._changed("promote", sentence)

    def _ruling(self, candidate: Adapter, live: Adapter, fleet_state: FleetState, intent: Intent | None) -> Ruling:
        """An operator's intent skips or ends the trial; the gate has passed the candidate in either case."""
        if intent is not None:
            return Ruling(action=Action.PROMOTE, reason=intent.reason)
        return self._rollout.ruling(candidate, live, fleet_state)

    def _withdraw(self, run: Run, candidate: Adapter, live: Adapter, reason: str) -> AttemptResult:
        self._store.runs.rejected(run.id, reason=reason)
        self._reconciler.repair(live)
        return _ended("promote", "rejected", f"{candidate.name} is withdrawn: {reason}")

    def _swap(
        self,
        run: Run,
        candidate: Adapter,
        live: Adapter,
        fleet_state: FleetState,
        *,
        intent: Intent | None,
        reason: str,
    ) -> str:
        """Swap on all servers: an unreachable server might still answer as the old generation."""
        fleet_state.require(live)
        started = time.monotonic()
        for server in fleet_state.serving:
            load_and_probe(self._fleet, candidate, server)
        with flipped(fleet_state.serving, target=candidate, live=live):
            seconds = time.monotonic() - started
            sentence = f"{candidate.name} is live on {len(fleet_state.serving)} servers after {seconds:.2f} s"
            self._store.runs.progress(run.id, {"swap_seconds": round(seconds, 3)})
            # inside of `flipped`: a refused commit undoes every flip
            self._store.adapters.promote(
                candidate.generation,
                expected_live=live.generation,
                actor=ACTOR if intent is None else intent.actor,
                reason=reason,
                fulfils=None if intent is None else Fulfilled(intent_id=intent.id, outcome=sentence),
                strengths=strengths_of(self._store.runs.verdict(run.id)),
            )
        metrics.SWAP_SECONDS.observe(seconds)
        return sentence

    def _try_again(self, run: Run, verdict: Verdict, problem: str) -> AttemptResult:
        tried_run, tries = self._attempts
        attempts = tries + 1 if tried_run == run.id else 1
        self._attempts = (run.id, attempts)
        waited_s = (utcnow() - verdict.decided_at).total_seconds()
        if attempts >= GIVE_UP_ATTEMPTS and waited_s > GIVE_UP_AFTER_S:
            why = f"not promoted in {waited_s:.0f} s and {attempts} attempts; last: {problem}"
            self._store.runs.failed(run.id, reason=why)
            return _run_ended(RunState.FAILED, f"run {run.id}: {why}")
        self._not_before = time.monotonic() + self._backoff.delay_s(attempts)
        metrics.SWAPS.labels(kind="promote", outcome="retried").inc()
        return AttemptResult(state=IntentState.PENDING, sentence=f"run {run.id} waits for its promotion: {problem}")

    def _changed(self, kind: str, sentence: str) -> AttemptResult:
        metrics.SWAPS.labels(kind=kind, outcome="done").inc()
        _show(self._store.adapters.live())
        return AttemptResult(state=IntentState.DONE, sentence=sentence)

    # --- rollback ---

    def _roll_back(self, intent: Intent) -> AttemptResult:
        """Commit first and flip then: a server that does not answer must not keep the others on a bad generation."""
        live = self._store.adapters.live()
        started = time.monotonic()
        try:
            target = self._target(intent, live)
            self._have_loaded(target)  # before the commit, so that the flip afterwards is short
            outcome = f"rolled back from {live.name} to {target.name}"
            self._store.adapters.roll_back(
                target.generation,
                expected_live=live.generation,
                actor=intent.actor,
                reason=intent.reason,
                fulfils=Fulfilled(intent_id=intent.id, outcome=outcome),
            )
        except (NotFoundError, AdapterInvalidError, PromotionError, IllegalTransitionError) as exc:
            return _ended("rollback", "refused", f"{live.name} stays live: {exc}")
        fleet_state = self._reconciler.repair(target)
        metrics.SWAP_SECONDS.observe(time.monotonic() - started)
        return self._changed("rollback", f"{outcome}; {_live_on(target, fleet_state)}")

    def _target(self, intent: Intent, live: Adapter) -> Adapter:
        if intent.target_generation is not None:
            target = self._store.adapters.get(intent.target_generation)
        elif (previous := self._store.adapters.previous()) is not None:
            target = previous
        else:
            raise PromotionError("no generation was live before it, so there is nothing to roll back to")
        if target.generation == live.generation:
            raise PromotionError("it is the one asked for")
        if target.files_removed_at is not None:
            raise PromotionError(
                f"the files of generation {target.generation} were removed on {target.files_removed_at:%Y-%m-%d} "
                "(storage.keep_adapters); choose a newer one"
            )
        if target.state != AdapterState.RETIRED:
            raise PromotionError(f"generation {target.generation} is {target.state}, not retired")
        return target

    def _have_loaded(self, target: Adapter) -> None:
        """Load the target on servers without it; a server that does not answer gets it at its next repair."""
        if target.generation == BASE_GENERATION:
            return
        held = False
        for server in self._fleet.servers:
            try:
                if not server.ready():
                    continue
                if target.name not in server.state().adapters:
                    load_and_probe(self._fleet, target, server)
                held = True
            except EndpointError as exc:
                log.warning("rollback_without_server", server=server.url, error=str(exc))
        if not held:
            self._fleet.verify(target)


def _live_on(live: Adapter, fleet_state: FleetState) -> str:
    total = len(fleet_state.serving) + len(fleet_state.behind)
    behind = "".join(f"; {sentence}" for sentence in (*fleet_state.behind, *fleet_state.older))
    return f"{live.name} is live on {len(fleet_state.serving)} of {total} servers{behind}"


def _ended(kind: str, outcome: str, sentence: str) -> AttemptResult:
    metrics.SWAPS.labels(kind=kind, outcome=outcome).inc()
    return AttemptResult(state=IntentState.REFUSED, sentence=sentence)


def _run_ended(end: RunState, sentence: str) -> AttemptResult:
    metrics.RUNS.labels(outcome=end).inc()
    return _ended("promote", end, sentence)


def _show(live: Adapter) -> None:
    metrics.LIVE_GENERATION.set(live.generation)
    metrics.LIVE_ADAPTER.info({"name": live.name, "run": str(live.run_id or "")})
    if live.promoted_at is not None:
        metrics.LAST_PROMOTION.set(live.promoted_at.timestamp())
