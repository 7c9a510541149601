"""Trying a candidate out beside the live generation before it goes live, where `rollout.mode` asks for it.

What is on trial stands in the store, and the reconcile loop brings every server to it: a daemon that is killed here, or
a server that restarts, goes on where the store is.
"""

from __future__ import annotations

from daemon.config.rollout import RolloutConfig
from daemon.promotion.swap import Fit, Reconciler, prepare
from daemon.promotion.trial import Course, Ruling
from daemon.promotion.trial_figures import standing
from daemon.records import ACTOR, Adapter, AdapterState
from daemon.serving.fleet import Fleet
from daemon.store import Store


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
        ruling = standing(self._store, current, live=live.generation, config=self._rollout).ruling
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
