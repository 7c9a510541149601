"""From traps to lessons: the model's own mistakes, flagged by rule, analysed as the product does it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from connectors.chat import ChatEndpoint, Reply
from connectors.messages import ChatMessage, FlaggedResponse
from daemon.artifacts.files import write_atomically
from daemon.config.reflection import ReflectionConfig
from daemon.errors import AnalysisRejectedError, ConfigError
from daemon.records import CorrectionSource, Lesson, Report, ReportState, Source
from daemon.reflection.best_of import AnswerScorer, best
from daemon.reflection.checks import check_analysis, whole_sentences
from daemon.reflection.prompts import Prompts
from tests.benchmarks.quality.probes import Scenario, Trap, traps_key

ANSWER_TOKENS = 48
ANALYSIS_TOKENS = 80
CANDIDATES = 4
DRAWN_TEMPERATURE = 0.7
PATIENCE_S = 900.0
"""Longest wait for an answer: trainings and the questions to another cell go on beside it."""
TEMPLATE = "v1"
NO_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""Nothing here depends on time: the same answers give the same files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A trap that the base model fell into: its answer and the correction."""

    trap: Trap
    response: str
    correction: str

    @property
    def flagged(self) -> FlaggedResponse:
        return FlaggedResponse(
            version=1,
            id=self.trap.id,
            occurred_at=NO_TIME,
            model="base",
            messages=[ChatMessage.model_validate(message) for message in self.trap.messages],
            response=self.response,
            reason=self.trap.reason,
            category=self.trap.category,
            correction=self.correction,
            checks=self.trap.probe.checks,
            reporter="bench",
        )

    def report(self) -> Report:
        return Report(
            id=self.trap.id,
            state=ReportState.LESSON,
            flagged=self.flagged,
            source=Source(channel="import"),
            received_at=NO_TIME,
            updated_at=NO_TIME,
        )

    def lesson(self, analysis: str, analyst: str) -> Lesson:
        return Lesson(
            report_id=self.trap.id,
            analysis=analysis,
            analyst=analyst,
            template=TEMPLATE,
            created_at=NO_TIME,
            correction=self.correction,
            correction_source=CorrectionSource.USER,
        )


class Analyst(StrEnum):
    """The author of the explanation of a mistake.

    The model, told that it may be wrong or not; the one of its four analyses that helps most
    (`daemon.reflection.best_of`); another model, told so or not; or a fixed text.
    """

    SELF = "self"
    BEST = "best-of-four"
    UNGUIDED = "unguided"
    EXTERNAL = "external"
    EXTERNAL_UNGUIDED = "external-unguided"
    TEMPLATE = "template"

    @property
    def is_external(self) -> bool:
        return self in {Analyst.EXTERNAL, Analyst.EXTERNAL_UNGUIDED}

    @property
    def is_guided(self) -> bool:
        """Whether it is told that the answer may be wrong, and why."""
        return self not in {Analyst.UNGUIDED, Analyst.EXTERNAL_UNGUIDED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A model behind an endpoint."""

    endpoint: ChatEndpoint
    model: str

    def chat(self, messages: Sequence[Mapping[str, Any]], max_tokens: int, *, draw: int | None = None) -> Reply:
        """Its likeliest answer, or the one that is drawn from its distribution with this seed."""
        temperature = 0.0 if draw is None else DRAWN_TEMPERATURE
        return self.endpoint.chat(
            self.model, messages, max_tokens=max_tokens, temperature=temperature, seed=draw, timeout_s=PATIENCE_S
        )


class Collector:
    """Asks the base model, and `external` for its analyses; keeps the answers in `folder`."""

    def __init__(
        self, *, base: Asked, score: AnswerScorer, external: Asked | None = None, folder: Path, concurrency: int
    ) -> None:
        """`score`: of the base model."""
        self._base = base
        self._score = score
        self._external = external
        self._folder = folder
        self._concurrency = concurrency
        self._prompts = Prompts(TEMPLATE)
        self._limits = ReflectionConfig()

    def mistakes(self, scenario: Scenario) -> list[Mistake]:
        """The traps that the base model falls into and for which a correction is known."""
        found = self._kept(f"{traps_key(scenario)}-mistakes", lambda: self._map(self._try, scenario.traps))
        return [Mistake(trap=trap, **found[trap.id]) for trap in scenario.traps if found.get(trap.id)]

    def analyses(self, scenario: Scenario, analyst: Analyst) -> dict[str, str | None]:
        """The analyst's text on each mistake, by its id; None: it failed `daemon.reflection.checks`.

        Raises:
            ConfigError: where another model is to be asked and none is known.
        """

        def analyse(mistake: Mistake) -> str | None:
            draws = range(CANDIDATES) if analyst is Analyst.BEST else [None]
            drawn = [self._analysis(analyst, mistake.flagged, draw=draw) for draw in draws]
            passed = [text for text in drawn if text is not None]
            return best(passed, mistake.flagged, mistake.correction, self._score) if passed else None

        name = f"{traps_key(scenario)}-{analyst}"
        return self._kept(name, lambda: self._map(analyse, self.mistakes(scenario)))

    def lessons(self, scenario: Scenario, mistakes: Sequence[Mistake], analyst: Analyst) -> list[Lesson]:
        """As the daemon makes them: an analysis that failed the checks gives way to the category's template."""
        analyses = {} if analyst is Analyst.TEMPLATE else self.analyses(scenario, analyst)
        return [
            mistake.lesson(analyses.get(mistake.trap.id) or self._prompts.category_analysis(mistake.flagged), analyst)
            for mistake in mistakes
        ]

    def _kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self._folder / f"{name}.json"
        if not path.exists():
            write_atomically(path, json.dumps(make(), ensure_ascii=False, indent=1).encode())
        kept: dict[str, Any] = json.loads(path.read_bytes())
        return kept

    def _map(self, work: Callable[[Any], Any], over: Sequence[Any]) -> dict[str, Any]:
        with ThreadPoolExecutor(self._concurrency) as pool:
            return dict(zip((_identity(one) for one in over), pool.map(work, over), strict=True))

    def _try(self, trap: Trap) -> dict[str, str] | None:
        reply = self._base.chat(trap.messages, ANSWER_TOKENS)
        if not reply.text.strip() or trap.probe.good(reply.text):
            return None
        correction = trap.correction or self._clean_answer(trap)
        if not correction or (trap.correction is None and not trap.probe.good(correction)):
            return None
        return {"response": reply.text, "correction": correction}

    def _clean_answer(self, trap: Trap) -> str:
        reply = self._base.chat(trap.clean or trap.messages, ANSWER_TOKENS)
        return whole_sentences(reply.text, truncated=reply.truncated)

    def _analysis(self, analyst: Analyst, flagged: FlaggedResponse, *, draw: int | None) -> str | None:
        asked = self._external if analyst.is_external else self._base
        if asked is None:
            raise ConfigError(f"{analyst} analyses are another model's: name its endpoint")
        messages = self._prompts.analysis(flagged, guided=analyst.is_guided)
        reply = asked.chat(messages, ANALYSIS_TOKENS, draw=draw)
        text = whole_sentences(reply.text, truncated=reply.truncated)
        try:
            check_analysis(text, flagged, limits=self._limits, instructions=messages[-1]["content"])
        except AnalysisRejectedError:
            return None
        return text


def _identity(one: Trap | Mistake) -> str:
    return one.id if isinstance(one, Trap) else one.trap.id
