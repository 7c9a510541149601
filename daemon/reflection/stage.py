"""Stage "reflection": a queued report becomes a lesson (method step 2).

Each step claims a few reports under a lease, requests their analyses in parallel, checks them and stores lessons.
Failures and their limits:

- An analysis fails a check, or a request fails while the analyst answers others: the report is retried later, with a
  higher temperature each time, at most `max_attempts` times. After that, a rejected analysis is replaced by the
  category's template (without `fallback_to_template` the report is buried), and a failed request buries the report. A
  request that can never succeed (HTTP 4xx) buries it at once.
- The analyst is out, as a trivial question shows (`daemon.reflection.analyst.Availability`): no reports are claimed
  during the outage, and interrupted attempts are refunded, so an outage does not bury the queue. This process refunds
  at most MAX_REFUNDS attempts per report, because a report itself may crash the analyst. After an outage reports are
  claimed one at a time until an answer arrives, so such a report does not interrupt others.
- This process crashes, perhaps because of a report: attempts are counted at the claim. A report claimed more than
  `max_attempts` + MAX_CRASHES times is buried without an attempt.
- The lease expires before the result is ready: the store refuses the result, and it is dropped.

All reports of an answer are analysed as one (`daemon.text.merging`). If none names a category, the kind of the mistake
is guessed first; then the report is back in the queue. `daemon.reflection.writer` asks and checks.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum

import structlog

from connectors.chat import EndpointError
from daemon import metrics
from daemon.chat.answers import answers_only
from daemon.chat.preparation import Preparation
from daemon.config.reflection import AT_ANOTHER_ENDPOINT, ReflectionConfig
from daemon.errors import AnalysisRejectedError, LeaseLostError, ServingError, StoppedError
from daemon.records import TEMPLATE_ANALYST, Lesson, utcnow
from daemon.reflection.analyst import Analyst, Availability
from daemon.reflection.anew import RETURNED, Renewals
from daemon.reflection.best_of import AnswerScorer
from daemon.reflection.prompts import Prompts
from daemon.reflection.writer import Guess, Writer
from daemon.runtime.backoff import Backoff
from daemon.runtime.stage import UNTIL_WRITTEN_S, Life, Step
from daemon.serving.asking import Asking
from daemon.store import Store
from daemon.store.reports import Claim
from daemon.trust.policy import Policy

log = structlog.get_logger(__name__)

STEP_S = 30.0
"""After this time a step claims no further report, so that a pause is noticed."""
MAX_REFUNDS = 5
MAX_CRASHES = 2
RETRY_LIMIT_S = 600.0
RETRY_JITTER = 0.5


class AttemptOutcome(StrEnum):
    """Result of one attempt; a label of `erratad_reflections_total`."""

    LESSON = "lesson"
    TEMPLATE = "template"
    GUESSED = "guessed"
    RETRY = "retry"
    BURIED = "buried"
    RETURNED = "returned"
    LATE = "late"


_OUTCOME_TEXTS = {
    AttemptOutcome.LESSON: "lesson{s}",
    AttemptOutcome.TEMPLATE: "lesson{s} from the template",
    AttemptOutcome.GUESSED: "sorted by a guess",
    AttemptOutcome.RETRY: "to retry",
    AttemptOutcome.BURIED: "buried",
    AttemptOutcome.RETURNED: "put back",
    AttemptOutcome.LATE: "too late and dropped",
}


class _TooManyClaimsError(Exception):
    """The report was claimed too often without a result."""


Result = Lesson | Guess
Failure = AnalysisRejectedError | EndpointError | ServingError | StoppedError | _TooManyClaimsError


class ReflectionStage:
    """Turns queued reports into lessons. Several daemons can run this stage at the same time.

    `owner` identifies this process among all processes on the store. If `analyst` is None, templates are used. `score`
    compares the analyses if several are requested. `preparation` is of the served model, whose answers are flagged.
    `judge` confirms corrections where the analyst is no other model. `asking` is that of the servers; None: they are
    not asked.

    Raises:
        ConfigError: if the version of the prompts does not exist.
    """

    name = "reflection"
    idle_s = 2.0

    def __init__(
        self,
        *,
        store: Store,
        config: ReflectionConfig,
        analyst: Analyst | None,
        score: AnswerScorer,
        preparation: Preparation,
        policy: Policy,
        guidance: str,
        owner: str,
        judge: Analyst | None = None,
        asking: Asking | None = None,
    ) -> None:
        self._reports = store.reports
        self._preparation = preparation
        self._enough = policy.enough(policy.config.analyse)
        self._config = config
        self._owner = owner
        own = analyst is None or analyst.kind == "self"
        self._asking = asking if asking is not None and own else Asking()
        self._at_most = config.concurrency or (None if own and judge is None else AT_ANOTHER_ENDPOINT)
        self._writer = Writer(
            config=config,
            prompts=Prompts(config.template),
            analyst=analyst,
            score=score,
            policy=policy,
            guidance=guidance,
            live=lambda: store.adapters.live().generation,
            judge=judge,
        )
        self._availability = None if analyst is None else Availability(analyst, backoff_s=config.backoff_s)
        self._renewals: Renewals | None = None
        if self._availability is not None and self._writer.asks_itself and config.analyse_again:
            self._renewals = Renewals(
                store=store,
                config=config,
                writer=self._writer,
                availability=self._availability,
                preparation=preparation,
                owner=owner,
                asking=self._asking,
            )
        self._backoff = Backoff(first_s=config.backoff_s, limit_s=RETRY_LIMIT_S, jitter=RETRY_JITTER)
        self._refunds: Counter[str] = Counter()

    def step(self, life: Life) -> Step:
        problem = self._availability.problem() if self._availability else None
        if problem is not None:
            return Step(sentence=problem)
        doubtful = self._availability is not None and self._availability.doubtful
        outcomes = self._process(self._claims(1 if doubtful else None), life)
        if not outcomes:
            return self._renew(life, 1 if doubtful else self._at_most)
        return Step(sentence=_sentence(outcomes), worked=AttemptOutcome.RETURNED not in outcomes)

    def _claims(self, most: int | None) -> Iterator[Claim]:
        """Claims one report after the other, each when it can be asked about; `most`: at most so many."""
        lease_s = self._config.lease_s
        for _ in itertools.count() if most is None else range(most):
            claimed = self._reports.claim(owner=self._owner, limit=1, lease_s=lease_s, enough=self._enough)
            if not claimed:
                return
            [claim] = claimed
            yield replace(claim, report=answers_only(claim.report, self._preparation))

    def _renew(self, life: Life, at_most: int | None) -> Step:
        outcomes = Counter[str]() if self._renewals is None else self._renewals.step(life, at_most=at_most)
        if not outcomes:
            return Step(sentence="no report is due", rest_s=UNTIL_WRITTEN_S)
        parts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        words = f"analysed {_counted(outcomes.total(), 'open report{s}')} anew: {parts}"
        return Step(sentence=words, worked=RETURNED not in outcomes)

    def _process(self, claims: Iterator[Claim], life: Life) -> Counter[AttemptOutcome]:
        outcomes: Counter[AttemptOutcome] = Counter()
        results: list[tuple[Claim, Result | Failure]] = []
        until = time.monotonic() + STEP_S
        failed = False

        def wanted() -> bool:
            return not (failed or life.stopping or time.monotonic() > until)

        for done in self._asking.each(
            claims,
            lambda claim: self._attempt(claim, life),
            at_most=self._at_most,
            goes_on=wanted,
            name=self.name,
        ):
            life.heartbeat()
            for claim, future in done:
                result = future.result()
                failed = failed or not isinstance(result, Lesson | Guess)
                if isinstance(result, Lesson | Guess):  # stored at once: a crash must not lose it
                    outcomes[self._store(claim, result)] += 1
                results.append((claim, result))
        # an outage is judged from all results together, so failures wait until here, and no report is claimed after one
        out = self._is_out([result for _, result in results])
        for claim, result in results:
            if not isinstance(result, Lesson | Guess):
                outcomes[self._handle_failure(claim, result, out=out)] += 1
        for outcome, count in outcomes.items():
            metrics.REFLECTIONS.labels(outcome=outcome).inc(count)
        return outcomes

    def _attempt(self, claim: Claim, life: Life) -> Result | Failure:
        """Runs in a worker thread. It only sends requests and does not write to the store."""
        if claim.report.attempts > self._config.max_attempts + MAX_CRASHES:
            return _TooManyClaimsError(
                f"{claim.report.attempts - 1} attempts ended without a result: the daemon crashed during them"
            )
        with metrics.REFLECTION_SECONDS.time():
            try:
                return self._writer.write(claim.report, life)
            except (AnalysisRejectedError, EndpointError, ServingError, StoppedError) as exc:
                return exc

    # --- recording outcomes ---

    def _is_out(self, results: Sequence[Result | Failure]) -> bool:
        """Whether requests failed because of an outage of the analyst."""
        if self._availability is None:
            return False
        errors = [result for result in results if isinstance(result, EndpointError | ServingError)]
        if errors:
            return self._availability.is_out(errors[0])
        if any(isinstance(result, Lesson | Guess | AnalysisRejectedError) for result in results):
            self._availability.record_answer()
        return False

    def _handle_failure(self, claim: Claim, failure: Failure, *, out: bool) -> AttemptOutcome:
        """Return, retry or bury a report after a failed attempt."""
        if isinstance(failure, StoppedError):
            return self._return(claim, str(failure), delay_s=0.0)
        if isinstance(failure, AnalysisRejectedError):
            return self._handle_rejection(claim, failure)
        if out and isinstance(failure, EndpointError | ServingError) and self._refunds[claim.report.id] < MAX_REFUNDS:
            self._refunds[claim.report.id] += 1
            return self._return(claim, f"the analyst was out: {failure}", delay_s=self._config.backoff_s)
        if isinstance(failure, _TooManyClaimsError) or (isinstance(failure, EndpointError) and not failure.transient):
            return self._bury(claim, str(failure))
        return self._retry_or_bury(claim, failure)

    def _handle_rejection(self, claim: Claim, failure: AnalysisRejectedError) -> AttemptOutcome:
        metrics.ANALYSES_REJECTED.labels(check=failure.check).inc()
        if claim.report.attempts >= self._config.max_attempts and self._config.fallback_to_template:
            return self._store(claim, self._writer.template(claim.report))
        return self._retry_or_bury(claim, failure)

    def _retry_or_bury(self, claim: Claim, failure: Failure) -> AttemptOutcome:
        attempt, most = claim.report.attempts, self._config.max_attempts
        if attempt >= most:
            return self._bury(claim, f"gave up after {attempt} attempts; the last: {failure}")
        reason = f"attempt {attempt} of {most}: {failure}"
        at = utcnow() + timedelta(seconds=self._backoff.delay_s(attempt))
        return self._finish(
            claim, AttemptOutcome.RETRY, reason, lambda: self._reports.retry(claim, at=at, reason=reason)
        )

    def _store(self, claim: Claim, result: Result) -> AttemptOutcome:
        if isinstance(result, Guess):
            return self._finish(
                claim,
                AttemptOutcome.GUESSED,
                f"{result.kind} by {result.by}",
                lambda: self._reports.guess(claim, result.kind, by=result.by),
            )
        return self._store_lesson(claim, result)

    def _store_lesson(self, claim: Claim, lesson: Lesson) -> AttemptOutcome:
        outcome = AttemptOutcome.TEMPLATE if lesson.analyst == TEMPLATE_ANALYST else AttemptOutcome.LESSON
        outcome = self._finish(claim, outcome, lesson.analyst, lambda: self._reports.complete(claim, lesson))
        if outcome is not AttemptOutcome.LATE:
            correction = "none" if lesson.correction_source is None else lesson.correction_source.value
            metrics.LESSONS.labels(analyst=lesson.analyst.partition(":")[0], correction=correction).inc()
            metrics.LESSONS_BY_KIND.labels(kind=claim.report.kind).inc()
        return outcome

    def _return(self, claim: Claim, reason: str, *, delay_s: float) -> AttemptOutcome:
        """Return the report to the queue without counting the attempt."""
        at = utcnow() + timedelta(seconds=delay_s)
        return self._finish(
            claim,
            AttemptOutcome.RETURNED,
            reason,
            lambda: self._reports.retry(claim, at=at, reason=reason, counted=False),
        )

    def _bury(self, claim: Claim, reason: str) -> AttemptOutcome:
        return self._finish(claim, AttemptOutcome.BURIED, reason, lambda: self._reports.bury(claim, reason=reason))

    def _finish(self, claim: Claim, outcome: AttemptOutcome, reason: str, change: Callable[[], None]) -> AttemptOutcome:
        try:
            change()
        except LeaseLostError as exc:
            outcome, reason = AttemptOutcome.LATE, str(exc)
        if outcome not in {AttemptOutcome.GUESSED, AttemptOutcome.RETRY, AttemptOutcome.RETURNED}:
            self._refunds.pop(claim.report.id, None)
        log.info("reflected", report_id=claim.report.id, outcome=outcome, attempt=claim.report.attempts, reason=reason)
        return outcome


def _sentence(outcomes: Counter[AttemptOutcome]) -> str:
    parts = [_counted(outcomes[outcome], text) for outcome, text in _OUTCOME_TEXTS.items() if outcomes[outcome]]
    return f"analysed {_counted(outcomes.total(), 'report{s}')}: {', '.join(parts)}"


def _counted(count: int, text: str) -> str:
    return f"{count} {text.format(s='' if count == 1 else 's')}"
