"""Stage "induction": provokes mistakes of the served model and files bad answers as reports (method step 1c).

A run starts by cron or by hand. It asks questions of `daemon.induction.seeds`, up to the configured maximum number of
questions and reports. `daemon.induction.filter` decides which answers are kept. The next run continues after the last
question, so all questions are used in turn. A report is stored like a user's: the reporter `induced` has the same
limits.

If no server (or no judge) answers, the run waits and repeats the same questions. If questions fail although a server is
ready, they are dropped after ATTEMPTS, because one of them may crash the servers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from connectors.chat import UNANSWERABLE, EndpointError
from connectors.messages import FlaggedResponse, storable
from daemon import metrics
from daemon.categories import kind_of
from daemon.config import Config
from daemon.config.reflection import AT_ANOTHER_ENDPOINT
from daemon.errors import LeaseLostError, ServingError
from daemon.evaluation.judge import Judgement, open_judge
from daemon.evaluation.suites import Item
from daemon.induction.filter import drop_reason, report_of
from daemon.induction.seeds import InductionQuestion, configured_questions
from daemon.labels import Drop, Suite
from daemon.records import Induction, IntentKind, IntentState, Trigger, served_name, utcnow
from daemon.runtime.backoff import Backoff
from daemon.runtime.cron import CronClock
from daemon.runtime.stage import UNTIL_WRITTEN_S, Life, Step
from daemon.serving.fleet import Fleet
from daemon.store import Added, Store

ATTEMPTS = 3
RETRY_BACKOFF = Backoff(first_s=5.0, limit_s=300.0)
"""Wait between two attempts at the same questions."""
OFF = "off: induction.enabled is false"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionResult:
    """One question with its report, or with the reason to drop its answer."""

    question: InductionQuestion
    outcome: FlaggedResponse | Drop


class _JudgeError(Exception):
    """The judge does not answer."""


class InductionStage:
    """Asks a few questions per step while a run is active.

    Raises:
        ConfigError: if induction is enabled and its files or the API key of the judge cannot be used.
    """

    name = "induction"
    idle_s = 2.0

    def __init__(self, *, store: Store, fleet: Fleet, config: Config) -> None:
        self._store = store
        self._fleet = fleet
        self._config = config.induction
        self._base_name = config.serving.base_name
        self._reporter_cap = config.intake.max_reports_per_reporter_per_day
        on = self._config.enabled
        self._questions = configured_questions(config) if on else []
        self._judge = open_judge(config.evaluation) if on else None
        self._at_most = None if self._judge is None else AT_ANOTHER_ENDPOINT
        last = store.inductions.last()
        self._clock = CronClock(
            self._config.cron if on else None,
            timezone=config.schedule.timezone,
            misfire_grace_s=config.schedule.misfire_grace_s,
            last=None if last is None else last.created_at,
        )
        self._failures = 0
        self._retry_at_s = 0.0
        self._problem = ""

    def close(self) -> None:
        """Stop the cron clock and close the connections of the judge."""
        self._clock.close()
        if self._judge is not None:
            self._judge.close()

    def step(self, life: Life) -> Step:
        metrics.INDUCED_NEXT_RUN.set(0 if self._clock.next is None else self._clock.next.timestamp())
        run = self._store.inductions.active() if self._config.enabled else None
        if run is None:
            return self._start_if_due()
        if time.monotonic() < self._retry_at_s:
            return Step(sentence=self._problem)
        return self._continue(run, life)

    # --- starting ---

    def _start_if_due(self) -> Step:
        intent = self._store.intents.pending(IntentKind.INDUCE)
        if intent is not None:
            step = self._start(Trigger.MANUAL, intent.actor, intent.id)
            if not step.worked:
                self._store.intents.finish(intent.id, IntentState.REFUSED, step.sentence)
            return step
        if not self._config.enabled:
            return Step(sentence=OFF, rest_s=UNTIL_WRITTEN_S)
        if self._clock.due:
            self._clock.acknowledge()
            return self._start(Trigger.CRON, "schedule")
        last = self._store.inductions.last()
        sentence = f"{'no induction yet' if last is None else _ended(last)}{self._clock.text()}"
        return Step(sentence=sentence, rest_s=UNTIL_WRITTEN_S)

    def _start(self, trigger: Trigger, requested_by: str, intent_id: int | None = None) -> Step:
        if not self._config.enabled:
            return Step(sentence=f"{OFF}; set it to true and restart the daemon")
        run = self._store.inductions.start(trigger=trigger, requested_by=requested_by, intent_id=intent_id)
        if run is None:
            return Step(sentence="not starting: another induction started at the same time")
        return Step(
            sentence=f"started induction {run.id} ({trigger}): {len(self._questions)} questions are configured",
            worked=True,
        )

    # --- asking ---

    def _continue(self, run: Induction, life: Life) -> Step:
        reason = self._end_reason(run)
        if reason is not None:
            return self._finish(run, reason)
        batch = self._batch(run)
        try:
            results = self._ask(batch, life)
        except ServingError as exc:
            return Step(sentence=f"induction {run.id} waits: {exc}")
        except (EndpointError, _JudgeError) as exc:
            if isinstance(exc, _JudgeError) or self._failures + 1 < ATTEMPTS:
                return self._retry_later(run, exc)
            results = [QuestionResult(question=question, outcome=Drop.GIVEN_UP) for question in batch]
        self._failures = 0
        return self._save(run, results)

    def _end_reason(self, run: Induction) -> str | None:
        """The reason to end the run, or None."""
        if run.kept >= self._config.max_reports_per_run:
            return "it kept as many reports as induction.max_reports_per_run allows"
        if run.asked >= len(self._questions):
            return "every question was asked"
        if run.asked >= self._config.max_questions_per_run:
            return "it asked as many questions as induction.max_questions_per_run allows"
        return None

    def _batch(self, run: Induction) -> list[InductionQuestion]:
        """The next questions: at most as many as the number of reports that may still be kept."""
        room = min(
            self._config.concurrency or self._fleet.asking.limit,
            self._config.max_reports_per_run - run.kept,
            min(self._config.max_questions_per_run, len(self._questions)) - run.asked,
        )
        return [self._questions[(run.position + offset) % len(self._questions)] for offset in range(room)]

    def _ask(self, batch: Sequence[InductionQuestion], life: Life) -> list[QuestionResult]:
        """Ask all questions. Raises the first ServingError, EndpointError or _JudgeError after all have ended."""
        model = self._base_name
        if self._config.model == "live":
            model = served_name(self._store.adapters.live(), self._base_name)
        asked = self._fleet.asking.each(
            enumerate(batch), lambda one: self._answered(one[1], model, life), at_most=self._at_most, name=self.name
        )
        answered = {number: future for done in asked for (number, _), future in done}
        return [answered[number].result() for number in range(len(batch))]

    def _answered(self, question: InductionQuestion, model: str, life: Life) -> QuestionResult:
        """Runs in a worker thread."""
        config = self._config
        try:
            reply = self._fleet.any().chat(
                model,
                question.hinted_messages,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                timeout_s=config.request_timeout_s,
            )
        except EndpointError as exc:
            if exc.status not in UNANSWERABLE:
                raise
            return QuestionResult(question=question, outcome=Drop.UNANSWERABLE)
        life.heartbeat()
        reply = replace(reply, text=storable(reply.text))
        said: list[str] = []

        def judge(text: str) -> bool | None:
            judgement = self._judged(question, text)
            said.append(judgement.words)
            return judgement.passed

        drop = drop_reason(question, reply, judge)
        report = drop or report_of(question, reply, at=utcnow(), judged="".join(said))
        return QuestionResult(question=question, outcome=report)

    def _judged(self, question: InductionQuestion, text: str) -> Judgement:
        """Ask the judge about the answer. Its request does not contain the hint."""
        if self._judge is None:
            return Judgement(passed=None, words="")
        messages = tuple(message.model_dump(mode="json", exclude_none=True) for message in question.seed.messages)
        item = Item(suite=Suite.FLAGGED, id=question.seed.id, messages=messages, complaint=question.hint.reason)
        try:
            return self._judge.judgement(item, text)
        except EndpointError as exc:
            raise _JudgeError(f"the judge does not answer: {exc}") from exc

    # --- saving ---

    def _retry_later(self, run: Induction, exc: Exception) -> Step:
        self._failures += 1
        self._retry_at_s = time.monotonic() + RETRY_BACKOFF.delay_s(self._failures)
        self._problem = f"induction {run.id} will ask again later: {exc}"
        return Step(sentence=self._problem)

    def _save(self, run: Induction, results: Sequence[QuestionResult]) -> Step:
        reports = [result.outcome for result in results if isinstance(result.outcome, FlaggedResponse)]
        position = (run.position + len(results)) % len(self._questions)
        try:
            after, added = self._store.inductions.file(
                run, reports, asked=len(results), position=position, reporter_cap=self._reporter_cap
            )
        except LeaseLostError as exc:
            return Step(sentence=str(exc))
        _count(results, added)
        if Added.QUARANTINED in added:
            return self._finish(after, f"reporter 'induced' reached its {self._reporter_cap} reports in 24 hours")
        return Step(sentence=f"induction {run.id}: kept {after.kept} of {after.asked} answers so far", worked=True)

    def _finish(self, run: Induction, reason: str) -> Step:
        self._store.inductions.finish(run, reason=reason)
        return Step(sentence=f"induction {run.id} ended, {reason}: {run.kept} of {run.asked} answers kept", worked=True)


def _ended(run: Induction) -> str:
    return f"induction {run.id} kept {run.kept} of {run.asked} answers"


def _count(results: Sequence[QuestionResult], added: Sequence[Added]) -> None:
    stored = iter(added)
    for result in results:
        kind = kind_of(result.question.hint.category)
        metrics.INDUCED_ASKED.labels(kind=kind).inc()
        if isinstance(result.outcome, Drop):
            metrics.INDUCED_DROPPED.labels(reason=result.outcome).inc()
        elif (outcome := next(stored)) is Added.STORED:
            metrics.INDUCED_KEPT.labels(kind=kind).inc()
        else:
            drop = Drop.QUARANTINED if outcome is Added.QUARANTINED else Drop.KNOWN
            metrics.INDUCED_DROPPED.labels(reason=drop).inc()
