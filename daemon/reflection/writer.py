"""Writes the lesson of one report: asks the analyst, checks what it says, and chooses the corrected answer.

The best correction by a user becomes the correction of the lesson. Otherwise a guided answer is requested and kept only
if it can be approved: by the checks of the report, or because the analyst is a stronger model. A thumbs-down does not
show which answer is right, so without checks the model's own answer is never requested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import structlog

from connectors.chat import EndpointError, Reply
from connectors.guidance import with_guidance
from connectors.messages import Checks, FlaggedResponse
from daemon import metrics
from daemon.categories import Kind, kind_of
from daemon.config.reflection import ReflectionConfig
from daemon.errors import AnalysisRejectedError, StoppedError
from daemon.labels import JUDGED
from daemon.parts import Analysis
from daemon.records import INDUCED, TEMPLATE_ANALYST, CorrectionSource, Lesson, Report, conversation, utcnow
from daemon.reflection.analyst import Analyst, Messages, SelfAnalyst
from daemon.reflection.best_of import AnswerScorer, best
from daemon.reflection.checks import check_analysis, correction_fault, whole_sentences
from daemon.reflection.kinds import MAX_TOKENS, guess
from daemon.reflection.preference import prefers_correction
from daemon.reflection.prompts import Prompts
from daemon.runtime.stage import Life
from daemon.text.merging import Merged, merged
from daemon.text.rules import failures
from daemon.text.words import normalised, overlap
from daemon.trust.policy import Policy

log = structlog.get_logger(__name__)

TEMPERATURE_STEP = 0.2
"""Added to the temperature with each attempt, so that a rejected analysis is not repeated."""
MAX_TEMPERATURE = 2.0
SEVERAL_TEMPERATURE = 0.9
"""Temperature of several analyses of one report: they must differ."""
MAX_ALIKE = 0.6
"""Maximum share of word 5-grams that two analyses of one report have in common."""
MAX_ANALYST_CHARACTERS = 200
MAX_HISTORY = 24
"""Analyses that are kept of a report, the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """The kind of a report that names no category, and the analyst that guessed it."""

    kind: Kind
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Correction:
    text: str
    source: CorrectionSource


class Writer:
    """Thread-safe: it sends requests and writes nothing. If `analyst` is None, templates are used.

    `judge` is asked about corrections where the analyst is no other model.
    """

    def __init__(
        self,
        *,
        config: ReflectionConfig,
        prompts: Prompts,
        analyst: Analyst | None,
        score: AnswerScorer,
        policy: Policy,
        guidance: str,
        live: Callable[[], int],
        judge: Analyst | None = None,
    ) -> None:
        """`live` tells the live generation."""
        self.asks_itself = analyst is not None and analyst.kind == SelfAnalyst.kind
        self._live = live
        self._config = config
        self._prompts = prompts
        self._analyst = analyst
        self._score = score
        self._policy = policy
        self._guidance = guidance
        is_other = analyst is not None and analyst.correction_source is CorrectionSource.ANALYST
        self._confirms = analyst if is_other else judge
        """Another model than the served one, which is no judge of its own answers."""

    def write(self, report: Report, life: Life) -> Lesson | Guess:
        """The lesson; or the kind of the report, if that must be guessed first.

        Raises:
            AnalysisRejectedError: A check fails.
            EndpointError, ServingError: The analyst does not answer.
            StoppedError: The daemon stops.
        """
        if self._analyst is None:
            return self._judged(self.template(report), report, life)
        if report.flagged.category is None and report.guessed_kind is None:
            return self._kind(self._analyst, report, life)
        return self._lesson(self._analyst, report, life)

    def template(self, report: Report) -> Lesson:
        """A lesson without an analyst. It goes by what was reported; a guess says nothing in it."""
        said = self._merged(report)
        lesson = _lesson_of(
            report,
            analysis=self._prompts.category_analysis(said.flagged),
            analyst=TEMPLATE_ANALYST,
            template=self._prompts.template_name(kind_of(report.flagged.category)),
            correction=_from_users(said),
            said=said,
        )
        return replace(lesson, generation=self._live() if self.asks_itself else None)

    def _kind(self, analyst: Analyst, report: Report, life: Life) -> Guess:
        said = self._merged(report)
        replies: list[Reply] = []

        def ask(messages: Messages) -> Reply:
            replies.append(self._ask(analyst, messages, report, life, max_tokens=MAX_TOKENS, temperature=0.0))
            return replies[0]

        kind = guess(ask, self._prompts, said.flagged, failed=_failed(said))
        return Guess(kind=kind, by=_name(analyst, replies[0]))

    def _lesson(self, analyst: Analyst, report: Report, life: Life) -> Lesson:
        said = self._merged(report)
        texts, written = self._analyses(analyst, report, said, life)
        correction = _from_users(said) or self._proposed(analyst, report, said, life)
        if self._config.analyses_per_report == 1:
            texts = [best(texts, said.flagged, None if correction is None else correction.text, self._score)]
        lesson = _lesson_of(
            report,
            analysis=texts[0],
            analyst=written.analyst,
            template=written.template,
            correction=correction,
            said=said,
        )
        lesson = replace(
            lesson,
            generation=written.generation,
            analyses=tuple(replace(written, text=text, at=lesson.created_at) for text in texts),
        )
        return self._judged(lesson, report, life)

    def _analyses(self, analyst: Analyst, report: Report, said: Merged, life: Life) -> tuple[list[str], Analysis]:
        """The analyses that pass the checks, and the first of them with its author."""
        generation = self._live() if self.asks_itself else None
        messages = self._prompts.analysis(
            said.flagged,
            guided=self._config.guided,
            failed=_failed(said),
            correction=self._vouched(report, said),
            judged=_judged(report),
        )
        several = self._config.analyses_per_report
        warmth = SEVERAL_TEMPERATURE if several > 1 else None
        count = max(several, self._config.candidates)
        replies = [self._ask(analyst, messages, report, life, temperature=warmth) for _ in range(count)]
        texts = self._passing(replies, said.flagged, messages)
        written = Analysis(
            text=texts[0],
            analyst=_name(analyst, replies[0]),
            template=self._prompts.analysis_name(guided=self._config.guided),
            at=utcnow(),
            generation=generation,
        )
        return (_different(texts) if several > 1 else texts), written

    def renew(self, report: Report, old: Lesson, past: Sequence[Analysis], life: Life) -> Lesson:
        """The lesson with new analyses; the old ones stay as its past. If none passes, with the old ones as they are.

        Raises:
            EndpointError, ServingError: The analyst does not answer.
            StoppedError: The daemon stops.
        """
        if self._analyst is None:
            return old
        asked = replace(report, attempts=1)
        tried = replace(old, generation=self._live(), analyses=tuple(past))
        try:
            texts, written = self._analyses(self._analyst, asked, self._merged(report), life)
        except AnalysisRejectedError as exc:
            metrics.ANALYSES_REJECTED.labels(check=exc.check).inc()
            return tried
        before = [replace(one, current=False) for one in past]
        now = [replace(written, text=text) for text in texts[: self._config.analyses_per_report]]
        return replace(
            tried,
            analysis=now[0].text,
            analyst=written.analyst,
            template=written.template,
            analyses=tuple([*before, *now][-MAX_HISTORY:]),
        )

    def _vouched(self, report: Report, said: Merged) -> str | None:
        """The user's correction, if the policy stands behind it: what must be confirmed first is no hint, either."""
        text = said.flagged.correction
        return text if text is not None and self._policy.stands_behind(report, text) else None

    def _judged(self, lesson: Lesson, report: Report, life: Life) -> Lesson:
        """The lesson, with whether another model prefers the user's correction if that decides about it."""
        confirms = self._confirms
        if lesson.correction is None or confirms is None or not self._policy.needs_confirmation(report, lesson):
            return lesson
        ask = partial(self._ask, confirms, report=report, life=life)
        try:
            better = prefers_correction(ask, self._prompts, report.flagged, lesson.correction)
        except EndpointError as exc:
            is_last = not exc.transient or report.attempts >= self._config.max_attempts
            if confirms is self._analyst or not is_last:
                raise
            log.warning("correction_not_judged", report_id=report.id, error=type(exc).__name__)
            return lesson  # a judge that fails holds no analysis up
        return replace(lesson, judged_better=better)

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

    def _ask(
        self,
        analyst: Analyst,
        messages: Messages,
        report: Report,
        life: Life,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Reply:
        if life.stopping:
            raise StoppedError("the daemon is stopping")
        warmth = self._config.temperature if temperature is None else temperature
        reply = analyst.ask(
            messages,
            max_tokens=max_tokens or self._config.max_tokens,
            temperature=min(warmth + TEMPERATURE_STEP * (report.attempts - 1), MAX_TEMPERATURE),
        )
        life.heartbeat()
        return reply


def _different(texts: Sequence[str]) -> list[str]:
    """The texts without those that say nearly the same as one before."""
    kept: list[str] = []
    for text in texts:
        alike = any(
            normalised(text) == normalised(one) or max(overlap(text, one), overlap(one, text)) > MAX_ALIKE
            for one in kept
        )
        if not alike:
            kept.append(text)
    return kept


def _name(analyst: Analyst, reply: Reply) -> str:
    return f"{analyst.kind}:{reply.model}"[:MAX_ANALYST_CHARACTERS]


def _judged(report: Report) -> str | None:
    """The words of the judge that found an induced answer bad. Nobody else can speak for a judge."""
    words = report.flagged.metadata.get(JUDGED) if report.source.principal == INDUCED else None
    return words if isinstance(words, str) else None


def _failed(said: Merged) -> list[str]:
    """The checks that the flagged answer breaks: name and fault, which holds the value."""
    rules = [Checks(**{name: value}) for one in said.checks for name, value in one if value not in (None, [])]
    return [
        f"{next(iter(rule.model_fields_set))}: {fault}"
        for rule in rules
        for fault in failures(rule, said.flagged.response)
    ]


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
