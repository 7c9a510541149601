"""The analysts: the served model itself or another OpenAI-compatible endpoint. Detects their outages."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from connectors.chat import ChatEndpoint, EndpointError, Reply
from daemon.chat.foreign import FOREIGN
from daemon.config.evaluation import EvaluationConfig
from daemon.config.reflection import EndpointConfig, ReflectionConfig
from daemon.config.secret import secret
from daemon.errors import ServingError
from daemon.records import CorrectionSource, served_name
from daemon.runtime.backoff import Backoff
from daemon.serving.fleet import Fleet
from daemon.store import Adapters

Messages = Sequence[Mapping[str, Any]]

PROBE_LIMIT_S = 60.0
OVERLOADED = frozenset({429, 503})
"""HTTP statuses caused by the endpoint, never by the request."""
PROBE: Messages = [{"role": "user", "content": "Reply with OK."}]


class Analyst(Protocol):
    kind: str
    """Closed set, used as a metric label: self, endpoint."""
    correction_source: CorrectionSource

    def ready(self) -> None:
        """Raise ServingError if it is known, without a request, that no server is ready."""
        ...

    def ask(self, messages: Messages, *, max_tokens: int, temperature: float) -> Reply:
        """Get one answer; raises EndpointError or ServingError."""
        ...


class SelfAnalyst:
    """The served model: the live generation under its raw name.

    The alias is not used. It adds the guidance to every request; the model would take it for a part of the question.
    """

    kind = "self"
    correction_source = CorrectionSource.GUIDED

    def __init__(self, *, fleet: Fleet, adapters: Adapters, base_name: str, timeout_s: float) -> None:
        self._fleet = fleet
        self._adapters = adapters
        self._base_name = base_name
        self._timeout_s = timeout_s

    def ready(self) -> None:
        self._fleet.any()

    def ask(self, messages: Messages, *, max_tokens: int, temperature: float) -> Reply:
        model = served_name(self._adapters.live(), self._base_name)
        return self._fleet.any().chat(
            model, messages, max_tokens=max_tokens, temperature=temperature, timeout_s=self._timeout_s
        )


class EndpointAnalyst:
    """A model behind another endpoint.

    Raises:
        ConfigError: if the environment variable of its key is not set.
    """

    kind = "endpoint"
    correction_source = CorrectionSource.ANALYST

    def __init__(self, config: EndpointConfig, *, timeout_s: float) -> None:
        self._model = config.model
        self._endpoint = ChatEndpoint(
            config.url, api_key=secret(config.api_key_env), timeout_s=timeout_s, dialect=FOREIGN
        )

    def ready(self) -> None:
        """Does nothing: only a request can show whether the endpoint answers."""

    def ask(self, messages: Messages, *, max_tokens: int, temperature: float) -> Reply:
        return self._endpoint.chat(self._model, messages, max_tokens=max_tokens, temperature=temperature)


def analyst_of(config: ReflectionConfig, *, fleet: Fleet, adapters: Adapters, base_name: str) -> Analyst | None:
    """The configured analyst, or None if templates are used instead.

    Raises:
        ConfigError: if the environment variable of the endpoint's key is not set.
    """
    if config.analyst == "template":
        return None
    if config.analyst == "endpoint" and config.endpoint is not None:
        return EndpointAnalyst(config.endpoint, timeout_s=config.request_timeout_s)
    return SelfAnalyst(fleet=fleet, adapters=adapters, base_name=base_name, timeout_s=config.request_timeout_s)


def judge_of(config: EvaluationConfig) -> Analyst | None:
    """The judge of `evaluation`, as one who confirms corrections; None: none is configured.

    Raises:
        ConfigError: if the environment variable of its key is not set.
    """
    return None if config.judge is None else EndpointAnalyst(config.judge, timeout_s=config.request_timeout_s)


class Availability:
    """Distinguishes an outage of the analyst from a failure caused by the text of one report.

    The test is a trivial question (PROBE): if it fails too, the analyst is out. During an outage the question is
    repeated at growing intervals (`backoff_s`, doubled up to PROBE_LIMIT_S). After an outage the analyst is `doubtful`
    until it has answered a real request.
    """

    def __init__(self, analyst: Analyst, *, backoff_s: float) -> None:
        self._analyst = analyst
        self._backoff = Backoff(first_s=backoff_s, limit_s=PROBE_LIMIT_S)
        self._outage: str | None = None
        self._failures = 0
        self._next_probe_s = 0.0

    @property
    def doubtful(self) -> bool:
        return self._failures > 0

    def problem(self) -> str | None:
        """The reason not to send requests now, or None. Probes the analyst again if the next probe is due."""
        try:
            self._analyst.ready()
        except ServingError as exc:
            return f"waiting for the analyst: {exc}"
        if self._outage is not None and time.monotonic() >= self._next_probe_s:
            self._probe()
        return None if self._outage is None else f"waiting, the analyst is out: {self._outage}"

    def is_out(self, error: EndpointError | ServingError) -> bool:
        """Whether a request failed because of an outage, and not because of the request."""
        if isinstance(error, EndpointError) and error.status not in OVERLOADED:
            return self._probe() is not None
        self._record_failure(error)
        return True

    def record_answer(self) -> None:
        """Note that the analyst answered a real request."""
        self._outage, self._failures = None, 0

    def _probe(self) -> str | None:
        try:
            self._analyst.ask(PROBE, max_tokens=1, temperature=0.0)
            self._outage = None
        except (EndpointError, ServingError) as exc:
            self._record_failure(exc)
        return self._outage

    def _record_failure(self, error: Exception) -> None:
        self._outage = str(error)
        self._failures += 1
        self._next_probe_s = time.monotonic() + self._backoff.delay_s(self._failures)
