"""Stage "evaluation": asks candidate and live the same questions and lets the gate decide.

One step measures all missing answers of the active run and ends with the verdict. Answers are stored as they arrive, so
a crash, a stop or a lost server costs at most the requests in flight. Requests use greedy decoding and the raw names of
the generations. For guided requests this stage adds the guidance, with the same function as the serving path.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from http import HTTPStatus

import structlog

from connectors.chat import EndpointError
from daemon import metrics
from daemon.chat.readings import OpensReader, Readings, served_limit
from daemon.config.evaluation import EvaluationConfig, GatePolicy
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
from daemon.evaluation.comparison import PASS_SUITES, PROBE_SUITES, ArmScores, Comparison, arm_scores, mean
from daemon.evaluation.gate import Decision, decide
from daemon.evaluation.judge import open_judge
from daemon.evaluation.left_out import LeftOutItem, account, counts, readable, unanswered
from daemon.evaluation.measurement import EvalRequest, Meter, eval_requests, key_of
from daemon.evaluation.suites import Item, build_items, configured_counts, golden_items, probe_items, without_trained
from daemon.evaluation.taught import asked_by, taught_by_run
from daemon.evaluation.votes import ItemKey, Trust, Voter
from daemon.labels import BLIND_CRITERIA, Criterion, Suite
from daemon.records import Adapter, Answer, Run, RunState, Verdict, utcnow
from daemon.runtime.stage import Life, Step
from daemon.serving.fleet import Fleet
from daemon.store import Runs, Store

log = structlog.get_logger(__name__)

FLUSH_S = 1.0
"""Interval of saving answers and of heartbeats."""
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
    ) -> None:
        """Items with a cosine similarity of at least `similarity` to a training prompt of the run are not asked.

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
        self._fixed = [*golden_items(config.golden), *probe_items(config)]
        self._judge = open_judge(config)
        self._meter = Meter(fleet, config, serving, judge=self._judge)
        self._readings = Readings(reader)
        self._limit = served_limit(serving)
        self._guidance = serving.guidance
        self._outage: tuple[int, float] | None = None
        """The waiting run and the start of its wait (monotonic)."""

    def step(self, life: Life) -> Step:
        run = self._store.runs.active()
        if run is None or run.state is not RunState.EVALUATING:
            return Step(sentence="no run to evaluate")
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
        fixed = without_trained(self._fixed, self._store, run, similarity=self._similarity)
        found, items, left_out = self._items(run, fixed, life)
        requests = eval_requests(items, (candidate, live))
        self._measure(run, requests, life, left_out=counts(left_out))
        if life.stopping:
            return Step(sentence=f"run {run.id}: stopped while measuring; the answers so far are kept")
        # a rollback during the measurement changes the live generation: the verdict must compare with the current one
        if self._store.adapters.live().generation != live.generation:
            return Step(sentence=f"run {run.id}: another generation went live, measuring against it", worked=True)
        trained = sorted({item.id for item in self._fixed} - {item.id for item in fixed})
        counted = [item for item in found if item.counts]
        return self._decide(
            run,
            candidate,
            live,
            requests,
            trained=trained,
            configured=configured_counts(counted, self._fixed, self._config),
            voters={item.key: item.voter for item in counted if item.voter is not None},
            left_out=left_out,
        )

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
    ) -> None:
        """Send the requests that have no stored answer. `left_out`: counts for the progress.

        Raises:
            EndpointError, ServingError: the first error of a request, raised after the answers in flight were stored.
        """
        known = {key_of(answer) for answer in self._store.runs.answers(run.id)}
        missing = [request for request in requests if request.key not in known]
        progress = _Progress(
            self._store.runs, run, done=len(requests) - len(missing), total=len(requests), left_out=left_out
        )
        outage: _Outage | None = None
        with ThreadPoolExecutor(self._config.concurrency, thread_name_prefix=self.name) as pool:
            pending = {pool.submit(self._meter.measure, run.id, request) for request in missing}
            try:
                while pending:
                    finished, pending = wait(pending, timeout=FLUSH_S, return_when=FIRST_EXCEPTION)
                    outage = outage or _outage_of(finished)
                    self._keep(finished, progress)
                    life.say(f"run {run.id}: {progress}")
                    if life.stopping or outage is not None:
                        pending = {future for future in pending if not future.cancel()}
            finally:
                pool.shutdown(cancel_futures=True)
        if outage is not None:
            raise outage

    def _keep(self, finished: set[Future[Answer | None]], progress: _Progress) -> None:
        answers = [future.result() for future in finished if future.exception() is None]
        kept = [answer for answer in answers if answer is not None]
        self._store.runs.save_answers(kept)
        if answers:
            self._outage = None
            progress.advance(len(answers))

    def _decide(
        self,
        run: Run,
        candidate: Adapter,
        live: Adapter,
        requests: Sequence[EvalRequest],
        *,
        trained: Sequence[str],
        configured: Mapping[Suite, int],
        voters: Mapping[ItemKey, Voter],
        left_out: Sequence[LeftOutItem],
    ) -> Step:
        wanted = {request.key for request in requests}
        answers = [answer for answer in self._store.runs.answers(run.id) if key_of(answer) in wanted]
        items = {request.item.key: request.item for request in requests}
        scores = arm_scores(candidate, answers), arm_scores(live, answers)
        decision = decide(
            *scores,
            self._gate,
            configured=configured,
            voters=voters,
            uncounted={key for key, item in items.items() if not item.counts},
            asked=asked_by(items.values(), guidance=self._guidance),
            taught=taught_by_run(self._store, run),
        )
        left_out = [*left_out, *unanswered(requests, answers, self._meter.refusals)]
        self._store.left_out.add(account(run.id, left_out))
        self._store.runs.decided(
            Verdict(
                run_id=run.id,
                generation=run.generation,
                accepted=decision.accepted,
                reasons=decision.reasons,
                figures={
                    **decision.figures,
                    "unanswered": len(wanted) - len(answers),
                    "items_like_trained_ones": list(trained),
                    "left_out": counts(left_out),
                    "without_evidence": sum(not item.counts for item in items.values()),
                },
                decided_at=utcnow(),
            )
        )
        _export_metrics(decision, *scores)
        metrics.RUN_STAGE_SECONDS.labels(stage=self.name).observe(_seconds(self._store.runs.get(run.id)))
        verdict = "accepted" if decision.accepted else "rejected"
        useless = {Criterion.CHANGES_SOMETHING, *BLIND_CRITERIA}
        say = log.error if any(finding.criterion in useless for finding in decision.failed) else log.info
        say("verdict", run=run.id, adapter=candidate.name, live=live.name, verdict=verdict, reasons=decision.reasons)
        return Step(sentence=f"run {run.id}: {verdict} {candidate.name}: {'; '.join(decision.reasons)}", worked=True)

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


class _Progress:
    """Progress of an evaluation, as shown by `erratad status`. `seconds` is the sum over restarts."""

    def __init__(
        self, runs: Runs, run: Run, *, done: int, total: int, left_out: Mapping[str, Mapping[str, int]]
    ) -> None:
        self._runs = runs
        self._run_id = run.id
        self._done = done
        self._total = total
        self._left_out = left_out
        self._before_s = _seconds(run)
        self._started = time.monotonic()
        self._first = done
        self.advance(0)

    def __str__(self) -> str:
        asked = self._done - self._first
        left_s = (time.monotonic() - self._started) / asked * (self._total - self._done) if asked else None
        left = "" if left_s is None else f", about {left_s:.0f} s left"
        return f"measures, {self._done} of {self._total} answers{left}"

    def advance(self, count: int) -> None:
        self._done += count
        seconds = self._before_s + time.monotonic() - self._started
        figures = {"done": self._done, "total": self._total, "seconds": round(seconds, 3), "left_out": self._left_out}
        self._runs.progress(self._run_id, {"evaluation": figures})


def _seconds(run: Run) -> float:
    return float(run.progress.get("evaluation", {}).get("seconds", 0.0))


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


def _export_metrics(decision: Decision, candidate: ArmScores, live: ArmScores) -> None:
    metrics.GATE_VERDICTS.labels(verdict="accepted" if decision.accepted else "rejected").inc()
    for finding in decision.failed:
        metrics.GATE_REASONS.labels(criterion=finding.criterion.value).inc()
    if not decision.accepted:
        metrics.RUNS.labels(outcome="rejected").inc()
    comparison = Comparison(candidate, live)
    for suite in (*PASS_SUITES, *PROBE_SUITES):
        for guided in (True, False):
            counts = comparison.counts(suite, guided=guided)
            for arm, passed in (("candidate", counts.candidate), ("live", counts.live)):
                _set_score(suite, arm, guided=guided, score=passed / counts.votes if counts.items else None)
    drift = comparison.of(Suite.DRIFT, guided=False)
    for arm, answers in (("candidate", [p.candidate for p in drift]), ("live", [p.live for p in drift])):
        bits = [answer.bits_per_token for answer in answers if answer.bits_per_token is not None]
        _set_score(Suite.DRIFT, arm, guided=False, score=mean(bits))


def _set_score(suite: Suite, arm: str, *, guided: bool, score: float | None) -> None:
    """Set the pass rate, or bits per token for drift; NaN if nothing was measured."""
    gauge = metrics.EVALUATION_SCORE.labels(suite=suite.value, arm=arm, guided=str(guided).lower())
    gauge.set(float("nan") if score is None else score)
