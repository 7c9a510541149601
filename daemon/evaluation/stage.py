"""Stage "evaluation": asks candidate and live the same questions and lets the gate decide.

One step measures all missing answers of the active run and ends with the verdict. Answers are stored as they arrive, so
a crash, a stop or a lost server costs at most the requests in flight. Requests use greedy decoding and the raw names of
the generations. For guided requests this stage adds the guidance, with the same function as the serving path.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path

import structlog

from connectors.chat import EndpointError
from daemon import metrics
from daemon.adapter_names import FULL_STRENGTH
from daemon.artifacts.adapter import MANIFEST_FILE, read_manifest
from daemon.artifacts.strength import weakened
from daemon.chat.readings import OpensReader, Readings, served_limit
from daemon.config.evaluation import EvaluationConfig, GatePolicy
from daemon.config.reflection import AT_ANOTHER_ENDPOINT
from daemon.config.serving import ServingConfig
from daemon.errors import (
    AdapterInvalidError,
    ChatReaderError,
    ConfigError,
    DatasetError,
    IllegalTransitionError,
    ServingError,
    StoppedError,
)
from daemon.evaluation.collapse import variety
from daemon.evaluation.comparison import FIX_SUITES, arm_scores
from daemon.evaluation.exports import ARMS, export_verdict
from daemon.evaluation.gate import Decision, decide
from daemon.evaluation.judge import open_judge
from daemon.evaluation.left_out import LeftOutItem, account, counts, readable, unanswered
from daemon.evaluation.measurement import EvalRequest, Meter, eval_requests, key_of
from daemon.evaluation.praised import praised_items
from daemon.evaluation.progress import EvaluationProgress, seconds_of
from daemon.evaluation.retests import Retesting
from daemon.evaluation.suites import Item, build_items, configured_counts, golden_items, probe_items, without_trained
from daemon.evaluation.sweep import (
    GAIN,
    Tried,
    chosen,
    goes_on,
    sweep_figures,
    sweep_sentences,
    with_kept_gain,
)
from daemon.evaluation.taught import asked_by, taught_by_run
from daemon.evaluation.votes import ItemKey, Trust, Voter
from daemon.labels import BLIND_CRITERIA, Criterion, Suite
from daemon.records import Adapter, Answer, Run, RunState, Verdict, utcnow
from daemon.retest import Retest, Side, tally
from daemon.runtime.stage import UNTIL_WRITTEN_S, Life, Step
from daemon.serving.fleet import Fleet
from daemon.store import Store

log = structlog.get_logger(__name__)

WAIT_LIMIT_S = 3600.0
"""A run without any answer for this long fails, because it would block all other runs."""
ALL_COUNT = Trust()

_Outage = EndpointError | ServingError


class EvaluationStage:
    """Measures the run in state `evaluating`."""

    name = "evaluation"
    idle_s = 2.0

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        config: EvaluationConfig,
        gate: GatePolicy,
        serving: ServingConfig,
        reader: OpensReader,
        similarity: float,
        trust: Trust = ALL_COUNT,
        strengths: Sequence[float] = (FULL_STRENGTH,),
    ) -> None:
        """Items with a cosine similarity of at least `similarity` to a training prompt of the run are not asked.

        `strengths` fall from 1.0: the weakest that passes goes live (`daemon.evaluation.sweep`).
        `trust` says which reports count in the gate, and for which principals the operator vouches.

        Raises:
            ConfigError: if the golden set or the probes are unusable, or the API key of the judge is not set.
        """
        self._store = store
        self._fleet = fleet
        self._config = config
        self._gate = gate
        self._similarity = similarity
        self._trust = trust
        self._strengths = tuple(strengths)
        self._fixed = [*golden_items(config.golden), *probe_items(config)]
        self._judge = open_judge(config)
        self._at_most = config.concurrency or (None if self._judge is None else AT_ANOTHER_ENDPOINT)
        self._meter = Meter(fleet, config, serving, judge=self._judge)
        self._readings = Readings(reader)
        self._limit = served_limit(serving)
        self._guidance = serving.guidance
        self._outage: tuple[int, float] | None = None
        """The waiting run and the start of its wait (monotonic)."""

    def step(self, life: Life) -> Step:
        run = self._store.runs.active()
        if run is None or run.state is not RunState.EVALUATING:
            return Step(sentence="no run to evaluate", rest_s=UNTIL_WRITTEN_S)
        try:
            return self._attempt(run, life)
        except IllegalTransitionError as exc:
            return Step(sentence=f"another daemon has ended run {run.id}: {exc}", worked=True)

    def close(self) -> None:
        """Close the connections of the judge. Call it after the last step."""
        if self._judge is not None:
            self._judge.close()

    def _attempt(self, run: Run, life: Life) -> Step:
        try:
            return self._evaluate(run, life)
        except (EndpointError, ServingError) as exc:
            return self._postpone(run, exc) if _is_temporary(exc) else self._fail(run, str(exc))
        except StoppedError as exc:
            return Step(sentence=f"run {run.id}: {exc}")
        except (AdapterInvalidError, DatasetError, ConfigError, ChatReaderError) as exc:
            return self._fail(run, str(exc))

    def _evaluate(self, run: Run, life: Life) -> Step:
        live, candidate = self._store.adapters.live(), self._store.adapters.get(run.generation)
        for adapter in (live, candidate):
            self._fleet.ensure_loaded(adapter)
        liked = praised_items(
            self._store, run, config=self._config, preparation=self._fleet.preparation, trust=self._trust
        )
        untaught = [*self._fixed, *liked]
        fixed = without_trained(untaught, self._store, run, similarity=self._similarity)
        found, items, left_out = self._items(run, fixed, life)
        counted = [item for item in found if item.counts]
        measured = _Measured(
            live=live,
            items=items,
            trained=sorted({item.id for item in untaught} - {item.id for item in fixed}),
            configured=configured_counts(counted, self._fixed, self._config),
            voters={item.key: item.voter for item in counted if item.voter is not None},
            left_out=left_out,
        )
        tried = [self._try(run, candidate, measured, life, before=())]
        for strength in self._strengths[1:]:
            if not goes_on(tried):
                break
            weaker = self._weaker(candidate, strength, tried[-1].adapter)
            if weaker is None:
                break
            tried.append(self._try(run, weaker, measured, life, before=tried))
        retests = self._retest(run, measured, tried, life)
        # a rollback during the measurement changes the live generation: the verdict must compare with the current one
        if self._store.adapters.live().generation != live.generation:
            return Step(sentence=f"run {run.id}: another generation went live, measuring against it", worked=True)
        return self._conclude(run, measured, tried, retests)

    def _weaker(self, candidate: Adapter, strength: float, loaded: Adapter) -> Adapter | None:
        """The candidate at a lower strength, loaded instead of `loaded`. None if it cannot be made or served."""
        try:
            folder = weakened(Path(candidate.path or ""), strength)
            weaker = replace(candidate, name=folder.name, path=str(folder))
            self._load_instead(weaker, loaded)
        except (AdapterInvalidError, OSError, EndpointError) as exc:
            if isinstance(exc, EndpointError) and _is_temporary(exc):
                raise
            log.warning("strength not measured", adapter=candidate.name, strength=strength, reason=str(exc))
            return None
        return weaker

    def _load_instead(self, wanted: Adapter, loaded: Adapter) -> None:
        for server in self._fleet.servers:
            server.unload(loaded.name)  # a slot may be free only then
        self._fleet.ensure_loaded(wanted)

    def _retest(
        self, run: Run, measured: _Measured, tried: Sequence[Tried], life: Life
    ) -> Mapping[Suite, Sequence[Retest]]:
        """Ask reports again where their first answers do not decide: of one side, and then of the other."""
        best, loaded, most = chosen(tried), tried[-1].adapter, self._config.answers_per_report

        def retesting() -> Retesting:
            answers = self._store.runs.answers(run.id)
            return Retesting(measured.items, answers, candidate=best.adapter, live=measured.live, most=most)

        for _ in Side:
            if not (more := retesting().further_requests()):
                break
            if loaded is not best.adapter:
                self._load_instead(best.adapter, loaded)
                loaded = best.adapter
            self._measure(run, more, life, left_out=counts(measured.left_out), strength=best.strength)
        return retesting().results(run.id)

    def _try(self, run: Run, adapter: Adapter, measured: _Measured, life: Life, *, before: Sequence[Tried]) -> Tried:
        """Measure one strength. Of a weaker one first the reports: often they reject it."""
        requests = eval_requests(measured.items, (adapter, measured.live))
        strength = self._strengths[len(before)]
        tried = partial(Tried, strength=strength, adapter=adapter, kl_to_base=_kl_to_base(adapter))
        if before:
            reports = [request for request in requests if request.item.suite in FIX_SUITES]
            self._measure(run, reports, life, left_out=counts(measured.left_out), strength=strength)
            early = with_kept_gain(self._decision(run, adapter, measured, reports), before, self._gate).only(GAIN)
            if early.failed:
                return tried(decision=early, whole=False)
        self._measure(run, requests, life, left_out=counts(measured.left_out), strength=strength)
        return tried(decision=with_kept_gain(self._decision(run, adapter, measured, requests), before, self._gate))

    def _items(self, run: Run, fixed: Sequence[Item], life: Life) -> tuple[list[Item], list[Item], list[LeftOutItem]]:
        """All items; those that can be asked; and the others with their reasons."""
        with self._readings.of_run(run.id, life) as session:
            read = partial(readable, session=session, limit=self._limit, guidance=self._guidance)
            usable, left_out = read(fixed)
            found = build_items(
                self._store,
                run,
                fixed=usable,
                limits=self._config,
                preparation=self._fleet.preparation,
                trust=self._trust,
            )
            items, more = read(found)
        return found, items, [*left_out, *more]

    def _measure(
        self,
        run: Run,
        requests: Sequence[EvalRequest],
        life: Life,
        *,
        left_out: Mapping[str, Mapping[str, int]],
        strength: float,
    ) -> None:
        """Send the requests that have no stored answer. `left_out`: counts for the progress.

        Raises:
            EndpointError, ServingError: the first error of a request, raised after the answers in flight were stored.
            StoppedError: the daemon stops.
        """
        known = {key_of(answer) for answer in self._store.runs.answers(run.id)}
        missing = [request for request in requests if request.key not in known]
        progress = EvaluationProgress(
            self._store.runs,
            self._store.runs.get(run.id),
            done=len(requests) - len(missing),
            total=len(requests),
            left_out=left_out,
            strength=strength,
        )
        outage: _Outage | None = None

        def wanted() -> bool:
            return outage is None and not life.stopping

        measure = partial(self._meter.measure, run.id)
        asked = self._fleet.asking.each(missing, measure, at_most=self._at_most, goes_on=wanted, name=self.name)
        for done in asked:
            finished = {one.future for one in done}
            outage = outage or _outage_of(finished)
            self._keep(finished, progress)
            life.say(f"run {run.id}: {progress}")
        if outage is not None:
            raise outage
        if life.stopping:
            raise StoppedError("stopped while measuring; the answers so far are kept")

    def _keep(self, finished: set[Future[Answer | None]], progress: EvaluationProgress) -> None:
        answers = [future.result() for future in finished if future.exception() is None]
        kept = [answer for answer in answers if answer is not None]
        self._store.runs.save_answers(kept)
        if answers:
            self._outage = None
            progress.advance(len(answers))

    def _decision(self, run: Run, candidate: Adapter, measured: _Measured, requests: Sequence[EvalRequest]) -> Decision:
        items = {request.item.key: request.item for request in requests}
        answers = self._answers(run, requests)
        return decide(
            arm_scores(candidate, answers),
            arm_scores(measured.live, answers),
            self._gate,
            configured=measured.configured,
            voters=measured.voters,
            uncounted={key for key, item in items.items() if not item.counts},
            asked=asked_by(items.values(), guidance=self._guidance),
            taught=taught_by_run(self._store, run),
            tasks={key: item.task for key, item in items.items() if item.task is not None},
        )

    def _answers(self, run: Run, requests: Sequence[EvalRequest]) -> list[Answer]:
        wanted = {request.key for request in requests}
        return [answer for answer in self._store.runs.answers(run.id) if key_of(answer) in wanted]

    def _conclude(
        self, run: Run, measured: _Measured, tried: Sequence[Tried], retests: Mapping[Suite, Sequence[Retest]]
    ) -> Step:
        best = chosen(tried)
        decision, candidate = best.decision, best.adapter
        requests = eval_requests(measured.items, (candidate, measured.live))
        answers = self._answers(run, requests)
        scores = arm_scores(candidate, answers), arm_scores(measured.live, answers)
        left_out = [*measured.left_out, *unanswered(requests, answers, self._meter.refusals)]
        self._store.left_out.add(account(run.id, left_out))
        reasons = (*decision.reasons, *sweep_sentences(tried))
        self._store.runs.decided(
            Verdict(
                run_id=run.id,
                generation=run.generation,
                accepted=decision.accepted,
                reasons=reasons,
                figures={
                    **decision.figures,
                    **sweep_figures(tried),
                    "variety": {arm: asdict(variety(one)) for arm, one in zip(ARMS, scores, strict=True)},
                    "unanswered": len(requests) - len(answers),
                    "items_like_trained_ones": list(measured.trained),
                    "left_out": counts(left_out),
                    "without_evidence": sum(not item.counts for item in measured.items),
                    "held_out": tally(retests[Suite.HOLDOUT]),
                    "trained": tally(retests[Suite.FLAGGED]),
                },
                decided_at=utcnow(),
            ),
            served=candidate,
            retests=[one for found in retests.values() for one in found],
        )
        export_verdict(best, *scores)
        metrics.RUN_STAGE_SECONDS.labels(stage=self.name).observe(seconds_of(self._store.runs.get(run.id)))
        verdict = "accepted" if decision.accepted else "rejected"
        useless = {Criterion.CHANGES_SOMETHING, *BLIND_CRITERIA}
        say = log.error if any(finding.criterion in useless for finding in decision.failed) else log.info
        say("verdict", run=run.id, adapter=candidate.name, live=measured.live.name, verdict=verdict, reasons=reasons)
        return Step(sentence=f"run {run.id}: {verdict} {candidate.name}: {'; '.join(reasons)}", worked=True)

    def _postpone(self, run: Run, outage: _Outage) -> Step:
        if self._outage is None or self._outage[0] != run.id:
            self._outage = run.id, time.monotonic()
        if time.monotonic() - self._outage[1] > WAIT_LIMIT_S:
            return self._fail(run, f"no answer for {WAIT_LIMIT_S:.0f} s: {outage}; repair the servers, start a new run")
        return Step(sentence=f"run {run.id} waits for a server, its answers so far are kept: {outage}")

    def _fail(self, run: Run, reason: str) -> Step:
        self._store.runs.failed(run.id, reason=f"cannot be evaluated: {reason}")
        metrics.RUNS.labels(outcome="failed").inc()
        log.error("evaluation failed", run=run.id, reason=reason)
        return Step(sentence=f"run {run.id} failed: {reason}", worked=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What all strengths of the candidate are measured with."""

    live: Adapter
    items: Sequence[Item]
    trained: Sequence[str]
    """Ids of fixed items that are not asked, because they are like trained ones."""
    configured: Mapping[Suite, int]
    voters: Mapping[ItemKey, Voter]
    left_out: Sequence[LeftOutItem]


def _kl_to_base(adapter: Adapter) -> float | None:
    """As the trainer measured it for this strength; None if it did not."""
    folder = Path(adapter.path or "")
    return read_manifest(folder).lineage.kl_to_base if (folder / MANIFEST_FILE).exists() else None


def _is_temporary(exc: _Outage) -> bool:
    """Whether the same request may succeed later. After a restart, a server answers 404 until the adapter is loaded."""
    return isinstance(exc, ServingError) or exc.transient or exc.status == HTTPStatus.NOT_FOUND


def _outage_of(finished: set[Future[Answer | None]]) -> _Outage | None:
    for future in finished:
        exc = future.exception()
        if isinstance(exc, EndpointError | ServingError):
            return exc
        if exc is not None:
            raise exc
    return None
