"""Who is asked for analyses: the served model itself, or another OpenAI-compatible endpoint; and whether it answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from connectors.chat import ChatEndpoint, EndpointError, Reply
from daemon.config.reflection import EndpointConfig, ReflectionConfig
from daemon.config.secret import secret
from daemon.errors import ServingError
from daemon.records import CorrectionSource, served_name
from daemon.runtime.backoff import Backoff
from daemon.serving.fleet import Fleet
from daemon.store import Adapters

Messages = Sequence[Mapping[str, Any]]

REST_LIMIT_S = 60.0
OVERLOADED = frozenset({429, 503})
"""HTTP statuses that speak of the endpoint and never of the request."""
PROBE: Messages = [{"role": "user", "content": "Reply with OK."}]


class Analyst(Protocol):
    kind: str
    """Closed set, used as a metric label: self, endpoint."""
    correction_source: CorrectionSource

    def ready(self) -> None:
        """Raise ServingError while it is known, without asking, that no request can be answered."""
        ...

    def ask(self, messages: Messages, *, max_tokens: int, temperature: float) -> Reply:
        """One answer; raises EndpointError or ServingError."""
        ...


class SelfAnalyst:
    """The served model, as it answers now: the live generation under its raw name.

    Not under the alias: the guidance that the alias puts before every request is about answering, and would be taken
    for a part of the question.
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
    """A model elsewhere.

    Raises:
        ConfigError: when the environment variable of its key is not set.
    """

    kind = "endpoint"
    correction_source = CorrectionSource.ANALYST

    def __init__(self, config: EndpointConfig, *, timeout_s: float) -> None:
        self._model = config.model
        self._endpoint = ChatEndpoint(config.url, api_key=secret(config.api_key_env), timeout_s=timeout_s)

    def ready(self) -> None:
        """Only an answer can tell."""

    def ask(self, messages: Messages, *, max_tokens: int, temperature: float) -> Reply:
        return self._endpoint.chat(self._model, messages, max_tokens=max_tokens, temperature=temperature)


def analyst_of(config: ReflectionConfig, *, fleet: Fleet, adapters: Adapters, base_name: str) -> Analyst | None:
    """The configured analyst; None where the templates stand in for one.

    Raises:
        ConfigError: when the environment variable of the endpoint's key is not set.
    """
    if config.analyst == "template":
        return None
    if config.analyst == "endpoint" and config.endpoint is not None:
        return EndpointAnalyst(config.endpoint, timeout_s=config.request_timeout_s)
    return SelfAnalyst(fleet=fleet, adapters=adapters, base_name=base_name, timeout_s=config.request_timeout_s)


class Availability:
    """Tells an outage of the analyst from a request that only one report's text makes fail.

    The test is a trivial question: an analyst that cannot answer that either is out. During an outage it is asked at
    growing intervals (`backoff_s`, doubled up to REST_LIMIT_S); until the first real answer after one it is `doubtful`.
    """

    def __init__(self, analyst: Analyst, *, backoff_s: float) -> None:
        self._analyst = analyst
        self._rest = Backoff(first_s=backoff_s, limit_s=REST_LIMIT_S)
        self._outage: str | None = None
        self._failures = 0
        self._look_at_s = 0.0

    @property
    def doubtful(self) -> bool:
        return self._failures > 0

    def problem(self) -> str | None:
        """Why nothing should be asked now; looks again when it is time to."""
        try:
            self._analyst.ready()
        except ServingError as exc:
            return f"waiting for the analyst: {exc}"
        if self._outage is not None and time.monotonic() >= self._look_at_s:
            self._look()
        return None if self._outage is None else f"resting, the analyst is out: {self._outage}"

    def is_out(self, error: EndpointError | ServingError) -> bool:
        """Whether a failed request is the analyst's failure and not the request's."""
        if isinstance(error, EndpointError) and error.status not in OVERLOADED:
            return self._look() is not None
        self._fail(error)
        return True

    def proved(self) -> None:
        """A real answer came."""
        self._outage, self._failures = None, 0

    def _look(self) -> str | None:
        try:
            self._analyst.ask(PROBE, max_tokens=1, temperature=0.0)
            self._outage = None
        except (EndpointError, ServingError) as exc:
            self._fail(exc)
        return self._outage

    def _fail(self, error: Exception) -> None:
        self._outage = str(error)
        self._failures += 1
        self._look_at_s = time.monotonic() + self._rest.delay_s(self._failures)
