"""Open reports after a promotion: the live generation analyses them anew, once, for the next run.

It is done when no report waits for its first analysis. A report whose new analyses all fail the checks keeps the old
one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from connectors.chat import EndpointError
from daemon import metrics
from daemon.chat.answers import answers_only
from daemon.chat.preparation import Preparation
from daemon.config.reflection import ReflectionConfig
from daemon.errors import LeaseLostError, ServingError, StoppedError
from daemon.records import Lesson, utcnow
from daemon.reflection.analyst import Availability
from daemon.reflection.writer import Writer
from daemon.runtime.stage import Life
from daemon.serving.asking import Asking
from daemon.store import Store
from daemon.store.anew import Renewal
from daemon.store.rows import history

log = structlog.get_logger(__name__)

RECHECK_S = 10.0
"""Wait before the database is asked again whether a report is due, unless another generation goes live."""
RENEWED, KEPT, RETURNED, LATE = "renewed", "kept", "returned", "late"
Failure = EndpointError | ServingError | StoppedError


class Renewals:
    """Renews a few lessons per step. Several daemons can do it at the same time."""

    def __init__(
        self,
        *,
        store: Store,
        config: ReflectionConfig,
        writer: Writer,
        availability: Availability,
        preparation: Preparation,
        owner: str,
        asking: Asking,
    ) -> None:
        self._store = store
        self._config = config
        self._writer = writer
        self._availability = availability
        self._preparation = preparation
        self._owner = owner
        self._asking = asking
        self._nothing_due: tuple[int, float] | None = None
        """The live generation, and until when no report is looked for."""

    def step(self, life: Life, *, at_most: int | None) -> Counter[str]:
        """The outcomes; empty if no report is due."""
        live = self._store.adapters.live().generation
        if self._nothing_due is not None and self._nothing_due[0] == live and time.monotonic() < self._nothing_due[1]:
            return Counter()
        limit = at_most or self._asking.limit
        found = self._store.anew.claim(owner=self._owner, limit=limit, lease_s=self._config.lease_s, live=live)
        self._nothing_due = None if found else (live, time.monotonic() + RECHECK_S)
        if not found:
            return Counter()
        claims = [replace(claim, report=answers_only(claim.report, self._preparation)) for claim in found]
        asked = self._asking.each(claims, lambda claim: self._renewed(claim, life), at_most=at_most, name="anew")
        results = [(claim, future.result()) for done in asked for claim, future in done]
        out = self._is_out([result for _, result in results])
        outcomes = Counter(self._end(claim, result, out=out) for claim, result in results)
        for outcome, count in outcomes.items():
            metrics.REFLECTIONS.labels(outcome=outcome).inc(count)
        return outcomes

    def _renewed(self, claim: Renewal, life: Life) -> Lesson | Failure:
        """Runs in a worker thread."""
        try:
            return self._writer.renew(claim.report, claim.lesson, history(claim.lesson), life)
        except (EndpointError, ServingError, StoppedError) as exc:
            return exc

    def _is_out(self, results: Sequence[Lesson | Failure]) -> bool:
        errors = [result for result in results if isinstance(result, EndpointError | ServingError)]
        if errors:
            return self._availability.is_out(errors[0])
        if any(isinstance(result, Lesson) for result in results):
            self._availability.record_answer()
        return False

    def _end(self, claim: Renewal, result: Lesson | Failure, *, out: bool) -> str:
        """Store what was learned. A request that fails while others are answered is not repeated."""
        try:
            if isinstance(result, StoppedError) or (out and not isinstance(result, Lesson)):
                self._store.anew.put_back(claim, at=utcnow() + timedelta(seconds=self._config.backoff_s))
                return RETURNED
            if isinstance(result, Lesson):
                self._store.anew.complete(claim, result)
                return KEPT if result.analysis == claim.lesson.analysis else RENEWED
            live = self._store.adapters.live().generation
            self._store.anew.complete(claim, replace(claim.lesson, generation=live))
        except LeaseLostError:
            return LATE
        log.warning("not analysed anew", report_id=claim.report.id, reason=str(result))
        return KEPT
