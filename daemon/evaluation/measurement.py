"""One measurement: ask one arm one question, and judge what it says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from connectors.chat import UNANSWERABLE, EndpointError
from connectors.guidance import with_guidance
from connectors.messages import storable
from connectors.vllm import VllmServer
from daemon.config.evaluation import EvaluationConfig
from daemon.config.serving import ServingConfig
from daemon.evaluation.comparison import PROBE_SUITES, Key
from daemon.evaluation.judge import Judge
from daemon.evaluation.suites import Item
from daemon.labels import Suite
from daemon.records import Adapter, Answer, served_name
from daemon.serving.fleet import Fleet

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One item put to one arm."""

    item: Item
    arm: Adapter
    guided: bool

    @property
    def key(self) -> tuple[str, Key]:
        """Equal to `key_of` of its answer."""
        return self.arm.name, (self.item.suite.value, self.item.id, self.guided)


def key_of(answer: Answer) -> tuple[str, Key]:
    return answer.arm, (answer.suite, answer.item_id, answer.guided)


def questions(items: Iterable[Item], arms: Sequence[Adapter]) -> list[Question]:
    """Every item guided and plain, and drift pairs plain only: the base model gave their answers without guidance.

    The arms' questions about one item stand side by side, so that they are asked in the same batch.
    """
    return [
        Question(item=item, arm=arm, guided=guided)
        for item in items
        for guided in ((False,) if item.suite is Suite.DRIFT else (True, False))
        for arm in arms
    ]


class Meter:
    """Asks and judges; threads may share it."""

    def __init__(
        self, fleet: Fleet, evaluation: EvaluationConfig, serving: ServingConfig, *, judge: Judge | None
    ) -> None:
        self._fleet = fleet
        self._evaluation = evaluation
        self._serving = serving
        self._judge = judge

    def measure(self, run_id: int, question: Question) -> Answer | None:
        """The answer with its figures; None when no server can answer such a question.

        Raises:
            EndpointError, ServingError: when a server or the judge does not answer.
        """
        try:
            return self._measure(run_id, question)
        except EndpointError as exc:
            if exc.status not in UNANSWERABLE:
                raise
            log.warning("item left out", run=run_id, item=question.item.id, suite=question.item.suite, reason=str(exc))
            return None

    def _measure(self, run_id: int, question: Question) -> Answer:
        item, server = question.item, self._fleet.any()
        model = served_name(question.arm, self._serving.base_name)
        messages = with_guidance(item.messages, self._serving.guidance if question.guided else "")
        answer = Answer(
            run_id=run_id,
            suite=item.suite.value,
            item_id=item.id,
            arm=question.arm.name,
            guided=question.guided,
            text="",
        )
        if item.suite is Suite.DRIFT:
            bits = bits_per_token(server, model, messages, item.good or "")
            return replace(answer, bits_per_token=_keepable(bits))
        limits = self._evaluation
        max_tokens = limits.probe_max_tokens if item.suite in PROBE_SUITES else limits.max_tokens
        reply = server.chat(model, messages, max_tokens=max_tokens, timeout_s=limits.request_timeout_s)
        return replace(
            answer,
            text=storable(reply.text),
            passed=self._passes(item, reply.text),
            margin=_margin(server, model, messages, item) if question.guided else None,
        )

    def _passes(self, item: Item, text: str) -> bool | None:
        passed = item.passes(text)
        return self._judge.passes(item, text) if passed is None and self._judge else passed


def bits_per_token(server: VllmServer, model: str, messages: Sequence[Mapping[str, Any]], completion: str) -> float:
    """The loss on a given answer."""
    return -server.score(model, messages, completion).per_token / math.log(2)


def _margin(server: VllmServer, model: str, messages: Sequence[Mapping[str, Any]], item: Item) -> float | None:
    """How much likelier the good answer is than the flagged one, in nats per token of each.

    Measured with guidance only, as served: it may decide the verdict, and scores are the slowest requests.
    """
    if item.good is None or item.bad is None:
        return None
    good, bad = (server.score(model, messages, text).per_token for text in (item.good, item.bad))
    return _keepable(good - bad)


def _keepable(figure: float) -> float:
    """SQLite keeps NaN as NULL, which reads as "not measured"; infinity is kept, and the gate refuses either."""
    return math.inf if math.isnan(figure) else figure
