"""Stage "completions": finds conversation and answer of the feedback that names a completion only.

Intake has stored the short form (`daemon.store.signals`). This stage asks the servers for their record of the
completion and stores the whole message in its place, by the rules of intake. Failures and their limits:

- No server remembers the completion: it is looked for again, with growing waits, until no record can be left
  (`serving.exchanges.ttl_s` after the message came); a server that is away now may hold it.
- The record is not clear, or no report can be made of it: given up at once, with the reason.
- The quota of the sender has no room for it: it waits like one that no server remembers.

A crash loses nothing: the short form goes in the transaction that stores the whole message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import structlog

from connectors.messages import FlaggedResponse
from connectors.vllm_wire import Exchange
from daemon import metrics
from daemon.config.intake import IntakeConfig
from daemon.config.serving import ServingConfig
from daemon.config.sources import Limits
from daemon.evidence.exchange import Match, verify
from daemon.evidence.recorded import LostError, completed
from daemon.evidence.remembered import remembered
from daemon.labels import Lost
from daemon.records import utcnow
from daemon.runtime.backoff import Backoff
from daemon.runtime.stage import UNTIL_WRITTEN_S, Life, Step
from daemon.serving.fleet import Fleet
from daemon.store import Added, Signal, Store

log = structlog.get_logger(__name__)

MAX_IDS = 100
"""Completions per request to a server."""
BACKOFF = Backoff(first_s=2.0, limit_s=300.0)
"""Wait before the same completion is looked for again."""


class CompletionsStage:
    """Only the leading daemon runs it. `limits` are those of a principal, as at intake."""

    name = "completions"
    idle_s = 2.0

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        intake: IntakeConfig,
        serving: ServingConfig,
        limits: Callable[[str], Limits],
    ) -> None:
        self._signals = store.signals
        self._fleet = fleet
        self._max_bytes = intake.max_message_bytes
        self._exchanges = serving.exchanges
        self._limits = limits

    def step(self, _life: Life) -> Step:
        due = self._signals.due(limit=MAX_IDS)
        if not due:
            return Step(sentence="no feedback waits for its completion", rest_s=UNTIL_WRITTEN_S)
        ids = [str(one.flagged.completion_id) for one in due]
        known = remembered(self._fleet, ids) if self._exchanges.enabled else {}
        results = Counter(self._look(one, known) for one in due)
        said = ", ".join(f"{count} {result}" for result, count in sorted(results.items()))
        waits = results["waiting"]
        return Step(sentence=f"looked for the completions of {len(due)} messages: {said}", worked=waits < len(due))

    def _look(self, waiting: Signal, known: Mapping[str, Sequence[Exchange]]) -> str:
        exchanges = known.get(str(waiting.flagged.completion_id), ())
        if not exchanges:
            return self._wait(waiting, Lost.NO_RECORD)
        try:
            flagged = completed(
                waiting.flagged,
                exchanges,
                self._fleet.preparation,
                received_at=waiting.received_at,
                max_bytes=self._max_bytes,
            )
        except LostError as exc:
            return self._give_up(waiting, exc.lost)
        verified = self._verified(flagged, exchanges)
        added = self._signals.resolve(waiting, flagged, limits=self._limits, verified=verified)
        if added is Added.OVER_QUOTA:
            return self._wait(waiting, Lost.TOO_MANY)
        if added is Added.TOO_MUCH:
            return self._give_up(waiting, Lost.REFUSED)
        return self._counted(waiting, "gone" if added is None else added)

    def _verified(self, flagged: FlaggedResponse, exchanges: Sequence[Exchange]) -> str | None:
        found = verify(flagged, exchanges, self._fleet.preparation)
        return None if found is None or found.match is not Match.SAME else f"{found.generation} gave this answer"

    def _wait(self, waiting: Signal, lost: Lost) -> str:
        """Look again later, or give up if no server can remember the completion any more."""
        now = utcnow()
        if now - waiting.received_at > timedelta(seconds=self._exchanges.ttl_s):
            return self._give_up(waiting, lost)
        self._signals.postpone(waiting, until=now + timedelta(seconds=BACKOFF.delay_s(waiting.attempts + 1)))
        return "waiting"

    def _give_up(self, waiting: Signal, lost: Lost) -> str:
        self._signals.give_up(waiting, lost)
        return self._counted(waiting, lost)

    def _counted(self, waiting: Signal, result: str) -> str:
        metrics.COMPLETIONS.labels(result=result).inc()
        log.info("completion", feedback=waiting.id, result=result)
        return result
