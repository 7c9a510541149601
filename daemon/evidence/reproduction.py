"""Asks the model again as it is served: does it make the mistake of a report again?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from connectors.chat import UNANSWERABLE, EndpointError, Reply
from connectors.guidance import with_guidance
from connectors.messages import storable
from connectors.vllm import VllmServer
from daemon.chat.answers import answers_only
from daemon.config.serving import ServingConfig
from daemon.config.trust import ReproduceConfig
from daemon.errors import ServingError, StoppedError
from daemon.evidence.likeness import is_back
from daemon.labels import Look
from daemon.records import BASE_GENERATION, Adapter, Evidence, Report, conversation, served_name
from daemon.runtime.stage import Life
from daemon.serving.fleet import Fleet
from daemon.store import Store
from daemon.text.merging import merged

OUTAGE = frozenset({401, 403, 429, 503})
"""HTTP statuses caused by the server or its configuration, never by the conversation."""
PROBE = ({"role": "user", "content": "Reply with OK."},)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found about one report."""

    evidence: Evidence
    result: Look
    detail: str
    generation: str | None = None
    """Name of the generation that gave the flagged answer, where a server's record says so."""


def not_asked(reason: str) -> Finding:
    return Finding(evidence=Evidence.CLAIMED, result=Look.NOT_ASKED, detail=reason)


class Reproduction:
    """Asks for answers to the conversations of reports. Thread-safe."""

    def __init__(self, *, store: Store, fleet: Fleet, config: ReproduceConfig, serving: ServingConfig) -> None:
        self._store = store
        self._fleet = fleet
        self._config = config
        self._serving = serving

    def look(self, report: Report, life: Life) -> Finding:
        """Ask `samples` times and compare.

        Raises:
            EndpointError, ServingError: A server does not answer.
            StoppedError: The daemon stops.
        """
        reason = _why_not(report)
        if reason is not None:
            return not_asked(f"not asked again: {reason}")
        server = self._fleet.any()
        asked = self._generation(report, server)
        try:
            back = self._count(report, asked, server, life)
        except EndpointError as exc:
            if exc.status not in UNANSWERABLE:
                raise
            # the server's words may repeat the conversation
            return not_asked(f"{asked.name} refused the conversation (HTTP {exc.status})")
        count = self._config.samples
        answers = f"{count} answer{'' if count == 1 else 's'} of {asked.name}"
        if not back:
            return Finding(evidence=Evidence.CLAIMED, result=Look.NOT_REPRODUCED, detail=f"not in {answers}")
        return Finding(evidence=Evidence.REPRODUCED, result=Look.REPRODUCED, detail=f"in {back} of {answers}")

    def is_out(self, error: EndpointError | ServingError) -> bool:
        """Whether a request failed because of the servers: a trivial question fails, too."""
        if isinstance(error, ServingError) or error.status in OUTAGE:
            return True
        try:
            server = self._fleet.any()
            server.chat(self._serving.base_name, PROBE, max_tokens=1, timeout_s=self._config.request_timeout_s)
        except (EndpointError, ServingError):
            return True
        return False

    def _generation(self, report: Report, server: VllmServer) -> Adapter:
        """The generation that the report names, if users may have had its answers lately; else the live one.

        A reporter who could choose any generation would choose the weakest.
        """
        live, trial = self._store.adapters.live(), self._store.trials.current()
        on_trial = None if trial is None else self._store.adapters.get(trial.generation)
        for adapter in (self._store.adapters.previous(), on_trial):
            if adapter is not None and report.flagged.model in {adapter.name, self._served(adapter)}:
                loaded = adapter.generation == BASE_GENERATION or adapter.name in server.state().adapters
                return adapter if loaded else live
        return live

    def _served(self, adapter: Adapter) -> str:
        return served_name(adapter, self._serving.base_name)

    def _count(self, report: Report, asked: Adapter, server: VllmServer, life: Life) -> int:
        """The number of answers that make the mistake again."""
        shown = answers_only(report, self._fleet.preparation)
        rules = merged(shown).rules
        return sum(
            is_back(
                storable(reply.text),
                shown.flagged.response,
                rules,
                similarity=self._config.similarity,
                truncated=reply.truncated,
            )
            for reply in self._replies(report, self._served(asked), server, life)
        )

    def _replies(self, report: Report, model: str, server: VllmServer, life: Life) -> Iterator[Reply]:
        messages = with_guidance(conversation(report), self._serving.guidance)
        for number in range(self._config.samples):
            if life.stopping:
                raise StoppedError("the daemon is stopping")
            yield server.chat(
                model,
                messages,
                max_tokens=self._config.max_tokens,
                temperature=self._config.temperature if number else 0.0,
                seed=number,
                timeout_s=self._config.request_timeout_s,
            )
            life.heartbeat()


def _why_not(report: Report) -> str | None:
    """Why the conversation of a report cannot be asked again; None if it can."""
    if report.flagged.not_trainable is not None:
        return report.flagged.not_trainable
    # the definitions of the tools are not part of a report
    return "the flagged answer calls a tool" if report.flagged.tool_calls else None
