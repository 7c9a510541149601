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

All reports of an answer are analysed as one (`daemon.text.merging`). The best correction by a user becomes the
correction of the lesson. Otherwise the stage requests a guided answer and keeps it
only if it can be approved: by the checks of the report, or because the analyst is a stronger model. A thumbs-down does
not show which answer is right, so without checks the model's own answer is never requested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from functools import partial

import structlog

from connectors.chat import EndpointError, Reply
from connectors.guidance import with_guidance
from connectors.messages import FlaggedResponse
from daemon import metrics
from daemon.categories import kind_of
from daemon.chat.answers import answers_only
from daemon.chat.preparation import Preparation
from daemon.config.reflection import ReflectionConfig
from daemon.errors import AnalysisRejectedError, LeaseLostError, ServingError, StoppedError
from daemon.records import CorrectionSource, Lesson, Report, conversation, utcnow
from daemon.reflection.analyst import Analyst, Availability, Messages
from daemon.reflection.best_of import AnswerScorer, best
from daemon.reflection.checks import check_analysis, correction_fault, whole_sentences
from daemon.reflection.preference import prefers_correction
from daemon.reflection.prompts import Prompts
from daemon.runtime.backoff import Backoff
from daemon.runtime.stage import Life, Step
from daemon.store import Store
from daemon.store.reports import Claim
from daemon.text.merging import Merged, merged
from daemon.trust.policy import Policy

log = structlog.get_logger(__name__)

MAX_REFUNDS = 5
MAX_CRASHES = 2
RETRY_LIMIT_S = 600.0
RETRY_JITTER = 0.5
TEMPERATURE_STEP = 0.2
"""Added to the temperature with each attempt, so that a rejected analysis is not repeated."""
MAX_TEMPERATURE = 2.0
TEMPLATE_ANALYST = "template"
MAX_ANALYST_CHARACTERS = 200


class AttemptOutcome(StrEnum):
    """Result of one attempt; a label of `erratad_reflections_total`."""

    LESSON = "lesson"
    TEMPLATE = "template"
    RETRY = "retry"
    BURIED = "buried"
    RETURNED = "returned"
    LATE = "late"


_OUTCOME_TEXTS = {
    AttemptOutcome.LESSON: "lesson{s}",
    AttemptOutcome.TEMPLATE: "lesson{s} from the template",
    AttemptOutcome.RETRY: "to retry",
    AttemptOutcome.BURIED: "buried",
    AttemptOutcome.RETURNED: "put back",
    AttemptOutcome.LATE: "too late and dropped",
}


class _TooManyClaimsError(Exception):
    """The report was claimed too often without a result."""


Failure = AnalysisRejectedError | EndpointError | ServingError | StoppedError | _TooManyClaimsError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Correction:
    text: str
    source: CorrectionSource


class ReflectionStage:
    """Turns queued reports into lessons. Several daemons can run this stage at the same time.

    `owner` identifies this process among all processes on the store. If `analyst` is None, templates are used. `score`
    compares the analyses if several are requested. `preparation` is of the served model, whose answers are flagged.

    Raises:
        ConfigError: if the version of the prompts does not exist.
    """

    name = "reflection"
    idle_s = 1.0

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
    ) -> None:
        self._reports = store.reports
        self._analyst = analyst
        self._score = score
        self._preparation = preparation
        self._policy = policy
        self._enough = policy.enough(policy.config.analyse)
        self._config = config
        self._guidance = guidance
        self._owner = owner
        self._prompts = Prompts(config.template)
        self._availability = None if analyst is None else Availability(analyst, backoff_s=config.backoff_s)
        self._backoff = Backoff(first_s=config.backoff_s, limit_s=RETRY_LIMIT_S, jitter=RETRY_JITTER)
        self._refunds: Counter[str] = Counter()

    def step(self, life: Life) -> Step:
        problem = self._availability.problem() if self._availability else None
        if problem is not None:
            return Step(sentence=problem)
        doubtful = self._availability is not None and self._availability.doubtful
        limit = 1 if doubtful else self._config.concurrency
        claimed = self._reports.claim(owner=self._owner, limit=limit, lease_s=self._config.lease_s, enough=self._enough)
        if not claimed:
            return Step(sentence="no report is due")
        claims = [replace(claim, report=answers_only(claim.report, self._preparation)) for claim in claimed]
        outcomes = self._process(claims, life)
        return Step(sentence=_sentence(outcomes), worked=AttemptOutcome.RETURNED not in outcomes)

    def _process(self, claims: Sequence[Claim], life: Life) -> Counter[AttemptOutcome]:
        outcomes: Counter[AttemptOutcome] = Counter()
        results: list[tuple[Claim, Lesson | Failure]] = []
        with ThreadPoolExecutor(max_workers=len(claims), thread_name_prefix=self.name) as pool:
            futures = {pool.submit(self._attempt, claim, life): claim for claim in claims}
            for future in as_completed(futures):
                claim, result = futures[future], future.result()
                if isinstance(result, Lesson):  # stored at once: a crash must not lose it
                    outcomes[self._store(claim, result)] += 1
                results.append((claim, result))
        # an outage is judged from all results together, so failures wait until here
        out = self._is_out([result for _, result in results])
        for claim, result in results:
            if not isinstance(result, Lesson):
                outcomes[self._handle_failure(claim, result, out=out)] += 1
        for outcome, count in outcomes.items():
            metrics.REFLECTIONS.labels(outcome=outcome).inc(count)
        return outcomes

    def _attempt(self, claim: Claim, life: Life) -> Lesson | Failure:
        """Runs in a worker thread. It only sends requests and does not write to the store."""
        if claim.report.attempts > self._config.max_attempts + MAX_CRASHES:
            return _TooManyClaimsError(
                f"{claim.report.attempts - 1} attempts ended without a result: the daemon crashed during them"
            )
        with metrics.REFLECTION_SECONDS.time():
            try:
                return self._lesson(claim.report, life)
            except (AnalysisRejectedError, EndpointError, ServingError, StoppedError) as exc:
                return exc

    # --- asking ---

    def _lesson(self, report: Report, life: Life) -> Lesson:
        if self._analyst is None:
            return self._template_lesson(report)
        said = self._merged(report)
        messages = self._prompts.analysis(said.flagged, guided=self._config.guided)
        replies = [self._ask(self._analyst, messages, report, life) for _ in range(self._config.candidates)]
        analyses = self._passing(replies, said.flagged, messages)
        correction = _from_users(said) or self._proposed(self._analyst, report, said, life)
        lesson = _lesson_of(
            report,
            analysis=best(analyses, said.flagged, None if correction is None else correction.text, self._score),
            analyst=f"{self._analyst.kind}:{replies[0].model}"[:MAX_ANALYST_CHARACTERS],
            template=self._prompts.analysis_name(guided=self._config.guided),
            correction=correction,
            said=said,
        )
        return replace(lesson, judged_better=self._judged_better(self._analyst, report, lesson, life))

    def _judged_better(self, analyst: Analyst, report: Report, lesson: Lesson, life: Life) -> bool | None:
        """Whether another model prefers the user's correction; None: nobody needs to know, or none could be asked.

        The served model is no judge of its own answers.
        """
        judges = analyst.correction_source is CorrectionSource.ANALYST
        if lesson.correction is None or not judges or not self._policy.needs_confirmation(report, lesson):
            return None
        ask = partial(self._ask, analyst, report=report, life=life)
        return prefers_correction(ask, self._prompts, report.flagged, lesson.correction)

    def _passing(self, replies: Sequence[Reply], flagged: FlaggedResponse, messages: Messages) -> list[str]:
        """The analyses that pass the checks. Raises the last fault if all fail."""
        analyses, fault = [], None
        for reply in replies:
            analysis = whole_sentences(reply.text, truncated=reply.truncated)
            try:
                check_analysis(analysis, flagged, limits=self._config, instructions=messages[0]["content"])
            except AnalysisRejectedError as exc:
                fault = exc
            else:
                analyses.append(analysis)
        if fault is not None and not analyses:
            raise fault
        return analyses

    def _merged(self, report: Report) -> Merged:
        return merged(report, max_correction_characters=self._config.max_correction_characters)

    def _template_lesson(self, report: Report) -> Lesson:
        said = self._merged(report)
        return _lesson_of(
            report,
            analysis=self._prompts.category_analysis(said.flagged),
            analyst=TEMPLATE_ANALYST,
            template=self._prompts.template_name(kind_of(report.flagged.category)),
            correction=_from_users(said),
            said=said,
        )

    def _proposed(self, analyst: Analyst, report: Report, said: Merged, life: Life) -> _Correction | None:
        """An approved guided answer. None if it fails the checks, or if nothing could approve it."""
        approvable = said.rules is not None or analyst.correction_source is CorrectionSource.ANALYST
        if not self._config.propose_corrections or not approvable or report.flagged.not_trainable:
            return None
        hint = self._prompts.correction_hint(said.flagged, self._guidance)
        try:
            reply = self._ask(analyst, with_guidance(conversation(report), hint), report, life)
        except EndpointError as exc:
            if exc.transient and report.attempts < self._config.max_attempts:
                raise
            log.warning("no correction", report_id=report.id, reason=str(exc))
            return None
        text = reply.text.strip()
        finding = correction_fault(
            text,
            said.flagged,
            rules=said.rules,
            truncated=reply.truncated,
            guidance=self._guidance,
            max_characters=self._config.max_correction_characters,
        )
        if finding is not None:
            metrics.SET_ASIDE.labels(source=analyst.correction_source, fault=finding.fault).inc()
            log.info("proposed correction refused", report_id=report.id, fault=finding.fault)
            return None
        return _Correction(text=text, source=analyst.correction_source)

    def _ask(self, analyst: Analyst, messages: Messages, report: Report, life: Life) -> Reply:
        if life.stopping:
            raise StoppedError("the daemon is stopping")
        temperature = min(self._config.temperature + TEMPERATURE_STEP * (report.attempts - 1), MAX_TEMPERATURE)
        reply = analyst.ask(messages, max_tokens=self._config.max_tokens, temperature=temperature)
        life.heartbeat()
        return reply

    # --- recording outcomes ---

    def _is_out(self, results: Sequence[Lesson | Failure]) -> bool:
        """Whether requests failed because of an outage of the analyst."""
        if self._availability is None:
            return False
        errors = [result for result in results if isinstance(result, EndpointError | ServingError)]
        if errors:
            return self._availability.is_out(errors[0])
        if any(isinstance(result, Lesson | AnalysisRejectedError) for result in results):
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
            return self._store(claim, self._template_lesson(claim.report))
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

    def _store(self, claim: Claim, lesson: Lesson) -> AttemptOutcome:
        outcome = AttemptOutcome.TEMPLATE if lesson.analyst == TEMPLATE_ANALYST else AttemptOutcome.LESSON
        outcome = self._finish(claim, outcome, lesson.analyst, lambda: self._reports.complete(claim, lesson))
        if outcome is not AttemptOutcome.LATE:
            correction = "none" if lesson.correction_source is None else lesson.correction_source.value
            metrics.LESSONS.labels(analyst=lesson.analyst.partition(":")[0], correction=correction).inc()
            metrics.LESSONS_BY_KIND.labels(kind=kind_of(claim.report.flagged.category)).inc()
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
        if outcome not in {AttemptOutcome.RETRY, AttemptOutcome.RETURNED}:
            self._refunds.pop(claim.report.id, None)
        log.info("reflected", report_id=claim.report.id, outcome=outcome, attempt=claim.report.attempts, reason=reason)
        return outcome


def _lesson_of(
    report: Report, *, analysis: str, analyst: str, template: str, correction: _Correction | None, said: Merged
) -> Lesson:
    for one in said.faulty:
        metrics.SET_ASIDE.labels(source=CorrectionSource.USER, fault=one.fault).inc()
    return Lesson(
        report_id=report.id,
        analysis=analysis,
        analyst=analyst,
        template=template,
        created_at=utcnow(),
        correction=None if correction is None else correction.text,
        correction_source=None if correction is None else correction.source,
        review_weight=said.review_weight,
        set_aside_from=said.faulty[0].report_id if said.faulty else None,
    )


def _from_users(said: Merged) -> _Correction | None:
    text = said.flagged.correction
    return None if text is None else _Correction(text=text, source=CorrectionSource.USER)


def _sentence(outcomes: Counter[AttemptOutcome]) -> str:
    parts = [_counted(outcomes[outcome], text) for outcome, text in _OUTCOME_TEXTS.items() if outcomes[outcome]]
    return f"analysed {_counted(outcomes.total(), 'report{s}')}: {', '.join(parts)}"


def _counted(count: int, text: str) -> str:
    return f"{count} {text.format(s='' if count == 1 else 's')}"
