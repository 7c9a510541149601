"""Trying a candidate out beside the live generation before it goes live, where `rollout.mode` asks for it.

What is on trial stands in the store, and the reconcile loop brings every server to it: a daemon that is killed here, or
a server that restarts, goes on where the store is.
"""

from __future__ import annotations

from datetime import datetime

from daemon.config_rollout import RolloutConfig
from daemon.records import ACTOR, Adapter, AdapterState, utcnow
from daemon.sequential import Rate
from daemon.serving import Fleet
from daemon.store import Store
from daemon.store.traffic import step_of
from daemon.swap import Fit, Reconciler, prepare
from daemon.trial import Course, Pair, Ruling, rule, rule_on_shadow


class Tryout:
    def __init__(self, *, rollout: RolloutConfig, store: Store, fleet: Fleet, reconciler: Reconciler) -> None:
        self._rollout = rollout
        self._store = store
        self._fleet = fleet
        self._reconciler = reconciler

    def ruling(self, candidate: Adapter, live: Adapter, fit: Fit) -> Ruling:
        """What to do with a candidate that passed the gate; begins its trial where the policy asks for one.

        Raises:
            ServingError, EndpointError: the trial cannot begin now; another time it may.
            AdapterInvalidError, PromotionError: the candidate can never go live.
        """
        current = self._store.trials.current()
        if current is None or current.generation != candidate.generation:
            if self._rollout.mode == "direct":
                return Ruling(course=Course.PROMOTE, reason="passed the gate")
            return self._begin(candidate, live, fit)
        age_s = (utcnow() - current.started_at).total_seconds()
        if current.mode == AdapterState.SHADOW:
            ruling = rule_on_shadow(self._store.trials.shadowed(candidate.generation), self._rollout, age_s=age_s)
        else:
            ruling = rule(self._beside(candidate, live, current.started_at), self._rollout, age_s=age_s)
        return Ruling(course=ruling.course, reason=f"{current.mode} on {current.share:.0%}: {ruling.reason}")

    def _begin(self, candidate: Adapter, live: Adapter, fit: Fit) -> Ruling:
        fit.require(live)
        for server in fit.serving:
            prepare(self._fleet, candidate, server)
        self._store.trials.begin(
            candidate.generation,
            mode=AdapterState(self._rollout.mode),
            share=self._rollout.share,
            concurrency=self._rollout.shadow_concurrency,
            actor=ACTOR,
        )
        self._reconciler.repair(live)
        return Ruling(
            course=Course.WAIT, reason=f"{candidate.name} begins its {self._rollout.mode} on {self._rollout.share:.0%}"
        )

    def _beside(self, candidate: Adapter, live: Adapter, since: datetime) -> dict[str, Pair]:
        """Both generations' flagged and failed answers since the trial began; each reporter counts once in all."""
        flags = self._store.traffic.first_flags([candidate.generation, live.generation], since=step_of(since))
        ours = self._store.traffic.tally(candidate.generation, since=since)
        theirs = self._store.traffic.tally(live.generation, since=since)
        counted = {
            "flagged": (flags[candidate.generation], flags[live.generation]),
            "errors": (ours.errors, theirs.errors),
        }
        return {
            name: Pair(
                candidate=Rate(events=new, requests=ours.requests), live=Rate(events=old, requests=theirs.requests)
            )
            for name, (new, old) in counted.items()
        }
