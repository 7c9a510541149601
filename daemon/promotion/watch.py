"""Stage "watch": rolls back a new live generation that is flagged, or fails, more often than the previous one.

The windows have equal traffic: all requests since the promotion, and as many of the previous generation's last
requests. Flags are votes (`daemon.store.flags`): a person counts once per window, and so does a principal that anybody
may use under any name. So neither can force a rollback, or hide a rise. If the votes that are possible cannot show a
rise, the watch says that it is blind to flags; it still compares errors. The errors of one time step are capped, so the
outage of one server does not count as the adapter's fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from daemon import metrics
from daemon.config.rollout import WatchConfig
from daemon.promotion.sequential import Evidence, Rate, rise
from daemon.promotion.voters import Bound, bound
from daemon.records import ACTOR, BASE_GENERATION, Adapter, AdapterState, IntentKind, utcnow
from daemon.runtime.stage import Life, Step
from daemon.store import Store
from daemon.store.flags import Electorate, Votes
from daemon.store.traffic import TrafficTally, step_of

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one generation answered in its window."""

    requests: int
    errors: int
    flags: Votes

    @property
    def flagged(self) -> Rate:
        return Rate(events=self.flags.votes, requests=self.requests, principals=self.flags.principals)

    @property
    def failed(self) -> Rate:
        return Rate(events=self.errors, requests=self.requests)


class WatchStage:
    """Files a rollback as an operator would; `daemon.promotion.stage` performs it."""

    name = "watch"

    def __init__(self, *, store: Store, config: WatchConfig, voters: Electorate) -> None:
        self.idle_s = config.interval_s
        self._store = store
        self._config = config
        self._voters = voters

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
        new, old, allowed = self._windows(live, previous)
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
        level = self._level
        risen = next((one for one in compared if one.evidence.significant(level)), None)
        if risen is not None:
            return self._ask(live, previous, risen)
        sentence = f"{live.name} against {previous.name}: {'; '.join(map(str, compared))}"
        metrics.WATCH_BLIND.set(allowed.blind is not None)
        return Step(sentence=sentence + ("" if allowed.blind is None else f"; blind to flags: {allowed.blind}"))

    @property
    def _level(self) -> float:
        return self._config.alpha / len(metrics.WATCHED_RATES)

    def _windows(self, live: Adapter, previous: Adapter) -> tuple[Window, Window, Bound]:
        since = None if live.promoted_at is None else step_of(live.promoted_at)
        answered = self._answered(live, since)
        before = self._store.traffic.window(previous.generation, requests=answered.requests)
        before = None if before is None else step_of(before)
        earlier = self._answered(previous, before)
        allowed = bound(
            self._store.flags,
            self._voters,
            new=answered.requests,
            old=earlier.requests,
            level=self._level,
            tolerance=self._config.tolerance,
        )
        return (
            self._window(live, since, answered, allowed.most),
            self._window(previous, before, earlier, allowed.most),
            allowed,
        )

    def _answered(self, adapter: Adapter, since: datetime | None) -> TrafficTally:
        return self._store.traffic.tally(adapter.generation, since=since, errors_per_step=ERRORS_PER_STEP)

    def _window(self, adapter: Adapter, since: datetime | None, traffic: TrafficTally, most: int | None) -> Window:
        votes = self._store.flags.votes(adapter.generation, self._voters, since=since, most=most)
        return Window(requests=traffic.requests, errors=traffic.errors, flags=votes)

    def _compare(self, new: Window, old: Window) -> list[RateChange]:
        pairs = {"flagged": (new.flagged, old.flagged), "errors": (new.failed, old.failed)}
        return [
            RateChange(rate=rate, new=here, old=there, evidence=rise(here, there, tolerance=self._config.tolerance))
            for rate, (here, there) in pairs.items()
        ]

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
    metrics.WATCH_BLIND.set(0)
    return Step(sentence=why)
