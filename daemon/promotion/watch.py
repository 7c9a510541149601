"""Stage "watch": rolls back a new live generation that is flagged, or fails, more often than the previous one.

The windows have equal traffic: all requests since the promotion, and as many of the previous generation's last
requests. Each reporter counts once per window, so one person cannot force a rollback. The errors of one time step are
capped, so the outage of one server does not count as the adapter's fault.
"""

from __future__ import annotations

from dataclasses import dataclass

from daemon import metrics
from daemon.config.rollout import WatchConfig
from daemon.promotion.sequential import Evidence, Rate, rise
from daemon.records import ACTOR, BASE_GENERATION, Adapter, AdapterState, IntentKind, utcnow
from daemon.runtime.stage import Life, Step
from daemon.store import Store
from daemon.store.traffic import TrafficTally

ERRORS_PER_STEP = 5
"""Errors of one time step (`daemon.store.traffic.STEP`) that count at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateChange:
    """One rate of the live generation compared with the previous generation's."""

    rate: str
    new: Rate
    old: Rate
    evidence: Evidence

    def __str__(self) -> str:
        return f"{self.rate}: {self.new} against {self.old}, p = {self.evidence.p_value:.2g}"


class WatchStage:
    """Files a rollback as an operator would; `daemon.promotion.stage` performs it."""

    name = "watch"

    def __init__(self, *, store: Store, config: WatchConfig) -> None:
        self.idle_s = config.interval_s
        self._store = store
        self._config = config

    def step(self, _life: Life) -> Step:
        live, previous = self._store.adapters.live(), self._store.adapters.previous()
        if not self._config.enabled:
            return _resting("switched off by rollout.watch.enabled")
        if previous is None or live.promoted_at is None:
            return _resting("no generation was live before this one")
        if self._came_by_rollback(live):
            return _resting(f"{live.name} is live by a rollback: it was watched before")
        asked = self._store.intents.asked(IntentKind.ROLLBACK, actor=ACTOR, since=live.promoted_at)
        if asked is not None:
            return _resting(f"asked to roll back {live.name} ({asked.outcome or asked.state})")
        return self._watch(live, previous)

    def _watch(self, live: Adapter, previous: Adapter) -> Step:
        new, old = self._tallies(live, previous)
        answered = min(new.requests, old.requests)
        age_s = 0.0 if live.promoted_at is None else (utcnow() - live.promoted_at).total_seconds()
        if age_s > self._config.window_s and new.requests >= self._config.min_requests:
            return _resting(f"{live.name} has passed its watch of {self._config.window_s:.0f} s")
        if answered < self._config.min_requests:
            return _resting(
                f"{live.name} against {previous.name}: {answered} of {self._config.min_requests} requests answered"
            )
        compared = self._compare(new, old)
        for one in compared:
            metrics.WATCH_P_VALUE.labels(rate=one.rate).set(one.evidence.p_value)
        # alpha is shared: each rate alone can cause a rollback
        risen = next((one for one in compared if one.evidence.significant(self._config.alpha / len(compared))), None)
        if risen is None:
            return Step(sentence=f"{live.name} against {previous.name}: {'; '.join(map(str, compared))}")
        return self._ask(live, previous, risen)

    def _tallies(self, live: Adapter, previous: Adapter) -> tuple[TrafficTally, TrafficTally]:
        tally = self._store.traffic.tally
        new = tally(live.generation, since=live.promoted_at, per_reporter=1, errors_per_step=ERRORS_PER_STEP)
        since = self._store.traffic.window(previous.generation, requests=new.requests)
        return new, tally(previous.generation, since=since, per_reporter=1, errors_per_step=ERRORS_PER_STEP)

    def _compare(self, new: TrafficTally, old: TrafficTally) -> list[RateChange]:
        pairs = {"flagged": (new.flagged, old.flagged), "errors": (new.errors, old.errors)}
        compared = []
        for rate, (ours, theirs) in pairs.items():
            here, there = Rate(events=ours, requests=new.requests), Rate(events=theirs, requests=old.requests)
            evidence = rise(here, there, tolerance=self._config.tolerance)
            compared.append(RateChange(rate=rate, new=here, old=there, evidence=evidence))
        return compared

    def _ask(self, live: Adapter, previous: Adapter, risen: RateChange) -> Step:
        """File a rollback with its target, so that it is refused if an operator rolls back first."""
        reason = f"{live.name} is worse than {previous.name}: {risen} (level {self._config.alpha:g})"
        self._store.intents.request(
            IntentKind.ROLLBACK, actor=ACTOR, reason=reason, target_generation=previous.generation
        )
        metrics.AUTOMATIC_ROLLBACKS.labels(rate=risen.rate).inc()
        return Step(sentence=f"asked for a rollback: {reason}")

    def _came_by_rollback(self, live: Adapter) -> bool:
        """True after a rollback: a rise that continues is not this generation's fault. Avoids cascading rollbacks."""
        undone = self._store.adapters.find(state=AdapterState.ROLLED_BACK, limit=1)
        return live.generation == BASE_GENERATION or bool(undone and undone[0].generation > live.generation)


def _resting(why: str) -> Step:
    for rate in metrics.WATCHED_RATES:
        metrics.WATCH_P_VALUE.remove(rate)
    return Step(sentence=why)
