"""Stage "induction": the served model is led into mistakes, and its bad answers are filed as reports (method step 1c).

A run, by cron or by hand, asks questions of `daemon.induction.seeds`, at most so many, and keeps at most so many
reports. The hint is in the question only; `daemon.induction.filter` decides what is kept. The next run goes on where
the last one ended, so that all questions get their turn. A report is taken in like any user's: the reporter `induced`
has the same caps.

Nothing is lost while no server (or no judge) answers: the run waits and asks the same questions again. Questions that
fail although a server is ready are given up after ATTEMPTS, because one of them may be what brings servers down.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from connectors.chat import UNANSWERABLE, EndpointError
from connectors.messages import FlaggedResponse, storable
from daemon import metrics
from daemon.categories import kind_of
from daemon.config import Config
from daemon.errors import LeaseLostError, ServingError
from daemon.evaluation.judge import open_judge
from daemon.evaluation.suites import Item
from daemon.induction.filter import flagged_of, sift
from daemon.induction.seeds import Question, configured_questions
from daemon.labels import Drop, Suite
from daemon.records import Induction, IntentKind, IntentState, Trigger, served_name, utcnow
from daemon.runtime.backoff import Backoff
from daemon.runtime.cron import CronClock
from daemon.runtime.stage import Life, Step
from daemon.serving.fleet import Fleet
from daemon.store import Added, Store

ATTEMPTS = 3
REST = Backoff(first_s=5.0, limit_s=300.0)
"""Between two attempts at the same questions."""
OFF = "off: induction.enabled is false"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sifted:
    """One question and what came of it."""

    question: Question
    found: FlaggedResponse | Drop


class _JudgeError(Exception):
    """The judge does not answer."""


class InductionStage:
    """Asks a few questions per step while a run is active; `close` stops the cron clock.

    Raises:
        ConfigError: when induction is on and its files or the judge's key cannot be used.
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
        last = store.inductions.last()
        self._clock = CronClock(
            self._config.cron if on else None,
            timezone=config.schedule.timezone,
            misfire_grace_s=config.schedule.misfire_grace_s,
            last=None if last is None else last.created_at,
        )
        self._failures = 0
        self._again_at_s = 0.0
        self._trouble = ""

    def close(self) -> None:
        self._clock.close()
        if self._judge is not None:
            self._judge.close()

    def step(self, life: Life) -> Step:
        metrics.INDUCED_NEXT_RUN.set(0 if self._clock.next is None else self._clock.next.timestamp())
        run = self._store.inductions.active() if self._config.enabled else None
        if run is None:
            return self._begin()
        if time.monotonic() < self._again_at_s:
            return Step(sentence=self._trouble)
        return self._go_on(run, life)

    # --- when ---

    def _begin(self) -> Step:
        intent = self._store.intents.pending(IntentKind.INDUCE)
        if intent is not None:
            step = self._start(Trigger.MANUAL, intent.actor, intent.id)
            if not step.worked:
                self._store.intents.finish(intent.id, IntentState.REFUSED, step.sentence)
            return step
        if not self._config.enabled:
            return Step(sentence=OFF)
        if self._clock.due:
            self._clock.acknowledge()
            return self._start(Trigger.CRON, "schedule")
        last = self._store.inductions.last()
        return Step(sentence=f"{'no induction yet' if last is None else _ended(last)}{self._clock.text()}")

    def _start(self, trigger: Trigger, requested_by: str, intent_id: int | None = None) -> Step:
        if not self._config.enabled:
            return Step(sentence=f"{OFF}; set it to true and start the daemon again")
        run = self._store.inductions.start(trigger=trigger, requested_by=requested_by, intent_id=intent_id)
        if run is None:
            return Step(sentence="not starting: another induction was started at the same moment")
        return Step(
            sentence=f"started induction {run.id} ({trigger}): {len(self._questions)} questions are configured",
            worked=True,
        )

    # --- asking ---

    def _go_on(self, run: Induction, life: Life) -> Step:
        ending = self._ending(run)
        if ending is not None:
            return self._finish(run, ending)
        batch = self._batch(run)
        try:
            sifted = self._ask(batch, life)
        except ServingError as exc:
            return Step(sentence=f"induction {run.id} waits: {exc}")
        except (EndpointError, _JudgeError) as exc:
            if isinstance(exc, _JudgeError) or self._failures + 1 < ATTEMPTS:
                return self._rest(run, exc)
            sifted = [Sifted(question=question, found=Drop.GIVEN_UP) for question in batch]
        self._failures = 0
        return self._file(run, sifted)

    def _ending(self, run: Induction) -> str | None:
        """Why the run asks no more."""
        if run.kept >= self._config.max_reports_per_run:
            return "it kept as many reports as induction.max_reports_per_run allows"
        if run.asked >= len(self._questions):
            return "every question was asked"
        if run.asked >= self._config.max_questions_per_run:
            return "it asked as many questions as induction.max_questions_per_run allows"
        return None

    def _batch(self, run: Induction) -> list[Question]:
        """The next questions; never more than reports may still be kept."""
        room = min(
            self._config.concurrency,
            self._config.max_reports_per_run - run.kept,
            min(self._config.max_questions_per_run, len(self._questions)) - run.asked,
        )
        return [self._questions[(run.position + offset) % len(self._questions)] for offset in range(room)]

    def _ask(self, batch: Sequence[Question], life: Life) -> list[Sifted]:
        """Raises the first ServingError, EndpointError or _JudgeError, once every question has come to its end."""
        model = self._base_name
        if self._config.model == "live":
            model = served_name(self._store.adapters.live(), self._base_name)
        with ThreadPoolExecutor(len(batch), thread_name_prefix=self.name) as pool:
            answered = [pool.submit(self._answered, question, model, life) for question in batch]
        return [one.result() for one in answered]

    def _answered(self, question: Question, model: str, life: Life) -> Sifted:
        """Runs in a worker thread."""
        config = self._config
        try:
            reply = self._fleet.any().chat(
                model,
                question.asked,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                timeout_s=config.request_timeout_s,
            )
        except EndpointError as exc:
            if exc.status not in UNANSWERABLE:
                raise
            return Sifted(question=question, found=Drop.UNANSWERABLE)
        life.heartbeat()
        reply = replace(reply, text=storable(reply.text))
        drop = sift(question, reply, lambda text: self._judged(question, text))
        return Sifted(question=question, found=drop or flagged_of(question, reply, at=utcnow()))

    def _judged(self, question: Question, text: str) -> bool | None:
        """The judge sees the instruction without the hint."""
        if self._judge is None:
            return None
        messages = tuple(message.model_dump(mode="json", exclude_none=True) for message in question.seed.messages)
        item = Item(suite=Suite.FLAGGED, id=question.seed.id, messages=messages, complaint=question.hint.reason)
        try:
            return self._judge.passes(item, text)
        except EndpointError as exc:
            raise _JudgeError(f"the judge does not answer: {exc}") from exc

    # --- keeping ---

    def _rest(self, run: Induction, exc: Exception) -> Step:
        self._failures += 1
        self._again_at_s = time.monotonic() + REST.delay_s(self._failures)
        self._trouble = f"induction {run.id} asks again later: {exc}"
        return Step(sentence=self._trouble)

    def _file(self, run: Induction, sifted: Sequence[Sifted]) -> Step:
        found = [one.found for one in sifted if isinstance(one.found, FlaggedResponse)]
        position = (run.position + len(sifted)) % len(self._questions)
        try:
            after, added = self._store.inductions.file(
                run, found, asked=len(sifted), position=position, reporter_cap=self._reporter_cap
            )
        except LeaseLostError as exc:
            return Step(sentence=str(exc))
        _count(sifted, added)
        if Added.QUARANTINED in added:
            return self._finish(after, f"reporter 'induced' reached its {self._reporter_cap} reports in 24 hours")
        return Step(sentence=f"induction {run.id}: kept {after.kept} of {after.asked} answers so far", worked=True)

    def _finish(self, run: Induction, reason: str) -> Step:
        self._store.inductions.finish(run, reason=reason)
        return Step(sentence=f"induction {run.id} ended, {reason}: {run.kept} of {run.asked} answers kept", worked=True)


def _ended(run: Induction) -> str:
    return f"induction {run.id} kept {run.kept} of {run.asked} answers"


def _count(sifted: Sequence[Sifted], added: Sequence[Added]) -> None:
    outcomes = iter(added)
    for one in sifted:
        kind = kind_of(one.question.hint.category)
        metrics.INDUCED_ASKED.labels(kind=kind).inc()
        if isinstance(one.found, Drop):
            metrics.INDUCED_DROPPED.labels(reason=one.found).inc()
        elif (outcome := next(outcomes)) is Added.STORED:
            metrics.INDUCED_KEPT.labels(kind=kind).inc()
        else:
            drop = Drop.QUARANTINED if outcome is Added.QUARANTINED else Drop.KNOWN
            metrics.INDUCED_DROPPED.labels(reason=drop).inc()
