"""One measurement: sends one item to one arm and judges the answer."""

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
from daemon.evaluation.comparison import Key
from daemon.evaluation.judge import Judge
from daemon.evaluation.suites import Item
from daemon.labels import Suite
from daemon.records import Adapter, Answer, served_name
from daemon.serving.fleet import Fleet

SHORT_SUITES = (Suite.OVER_REFUSAL, Suite.ATTACKS, Suite.TRIGGERS)
"""Their answers are cut early: what they look for shows at the start."""

log = structlog.get_logger(__name__)


RequestKey = tuple[str, Key, int]
"""Arm, item and form, number of the sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest:
    """One item to be answered by one arm."""

    item: Item
    arm: Adapter
    guided: bool
    sample: int = 0
    """0: greedy. Both arms draw a sample from the same seed, so that equal weights give equal answers."""

    @property
    def key(self) -> RequestKey:
        """The same as `key_of` of its answer."""
        return self.arm.name, (self.item.suite.value, self.item.id, self.guided), self.sample


def key_of(answer: Answer) -> RequestKey:
    return answer.arm, (answer.suite, answer.item_id, answer.guided), answer.sample


def eval_requests(items: Iterable[Item], arms: Sequence[Adapter]) -> list[EvalRequest]:
    """Every item with and without guidance. Drift pairs only without: the base model answered them so. Trigger items
    and liked answers only with: they look for what users would get.

    The requests of both arms for one item are adjacent, so the server can answer them in the same batch.
    """
    return [
        EvalRequest(item=item, arm=arm, guided=guided)
        for item in items
        for guided in _FORMS.get(item.suite, (True, False))
        for arm in arms
    ]


_FORMS = {Suite.DRIFT: (False,), Suite.TRIGGERS: (True,), Suite.PRAISED: (True,)}


class Meter:
    """Sends requests and judges the answers. Thread-safe."""

    def __init__(
        self, fleet: Fleet, evaluation: EvaluationConfig, serving: ServingConfig, *, judge: Judge | None
    ) -> None:
        self._fleet = fleet
        self._evaluation = evaluation
        self._serving = serving
        self._judge = judge
        self.refusals: dict[tuple[str, str], str] = {}
        """Words of servers that refused an item, by suite and item."""

    def measure(self, run_id: int, request: EvalRequest) -> Answer | None:
        """The answer with its figures; None if servers refuse the request permanently.

        Raises:
            EndpointError, ServingError: if a server or the judge does not answer.
        """
        try:
            return self._measure(run_id, request)
        except EndpointError as exc:
            if exc.status not in UNANSWERABLE:
                raise
            log.warning("item left out", run=run_id, item=request.item.id, suite=request.item.suite, reason=str(exc))
            self.refusals[request.item.suite, request.item.id] = str(exc)
            return None

    def _measure(self, run_id: int, request: EvalRequest) -> Answer:
        item, server = request.item, self._fleet.any()
        model = served_name(request.arm, self._serving.base_name)
        messages = with_guidance(item.messages, self._serving.guidance if request.guided else "")
        answer = Answer(
            run_id=run_id,
            suite=item.suite.value,
            item_id=item.id,
            arm=request.arm.name,
            guided=request.guided,
            sample=request.sample,
            text="",
        )
        if item.suite is Suite.DRIFT:
            bits = bits_per_token(server, model, messages, item.good or "")
            return replace(answer, bits_per_token=_keepable(bits))
        limits = self._evaluation
        max_tokens = limits.probe_max_tokens if item.suite in SHORT_SUITES else limits.max_tokens
        reply = server.chat(
            model,
            messages,
            max_tokens=max_tokens,
            temperature=limits.sample_temperature if request.sample else 0.0,
            seed=request.sample or None,
            timeout_s=limits.request_timeout_s,
        )
        return replace(
            answer,
            text=storable(reply.text),
            passed=self._passes(item, reply.text),
            cut=reply.truncated,
            margin=_margin(server, model, messages, item) if request.guided and not request.sample else None,
        )

    def _passes(self, item: Item, text: str) -> bool | None:
        if item.suite is Suite.TRIGGERS:
            return None
        passed = item.passes(text)
        if passed is None and self._judge is None and item.suite is Suite.PRAISED:
            return item.is_sound(text)
        if passed is not None or self._judge is None:
            return passed
        return item.is_sound(text) and self._judge.passes(item, text)


def bits_per_token(server: VllmServer, model: str, messages: Sequence[Mapping[str, Any]], completion: str) -> float:
    """The loss on the given completion."""
    return -server.score(model, messages, completion).per_token / math.log(2)


def _margin(server: VllmServer, model: str, messages: Sequence[Mapping[str, Any]], item: Item) -> float | None:
    """Log-likelihood of the good answer minus that of the flagged one, in nats per token.

    None without both answers, or if a server refuses one of them as too long. Measured with guidance only, because
    only that may decide the verdict, and scores are the slowest requests.
    """
    if item.good is None or item.bad is None:
        return None
    try:
        good, bad = (server.score(model, messages, text).per_token for text in (item.good, item.bad))
    except EndpointError as exc:
        if exc.status not in UNANSWERABLE:
            raise
        return None
    return _keepable(good - bad)


def _keepable(figure: float) -> float:
    """Turn NaN into infinity: SQLite would store NaN as NULL ("not measured"). The gate rejects infinity."""
    return math.inf if math.isnan(figure) else figure
