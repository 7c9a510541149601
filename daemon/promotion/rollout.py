"""A trial of the candidate beside the live generation before it goes live, if `rollout.mode` requires one.

The store holds the trial, and the reconcile loop brings every server to that state. So the trial survives a killed
daemon and restarted servers.
"""

from __future__ import annotations

from daemon.config.rollout import RolloutConfig
from daemon.promotion.approval import WAITS_SINCE
from daemon.promotion.swap import FleetState, Reconciler, load_and_probe
from daemon.promotion.trial import Action, Ruling
from daemon.promotion.trial_figures import trial_status
from daemon.records import ACTOR, Adapter, AdapterState, utcnow
from daemon.serving.fleet import Fleet
from daemon.store import Store
from daemon.store.flags import Electorate


class Rollout:
    def __init__(
        self, *, config: RolloutConfig, store: Store, fleet: Fleet, reconciler: Reconciler, voters: Electorate
    ) -> None:
        self._config = config
        self._voters = voters
        self._store = store
        self._fleet = fleet
        self._reconciler = reconciler

    def ruling(self, candidate: Adapter, live: Adapter, fleet_state: FleetState) -> Ruling:
        """Decide on a candidate that passed the gate; start its trial if the policy requires one.

        Raises:
            ServingError, EndpointError: The trial cannot start now; a later attempt may succeed.
            AdapterInvalidError, PromotionError: The candidate can never go live.
        """
        current = self._store.trials.current()
        if current is None or current.generation != candidate.generation:
            if self._config.mode == "direct":
                return self._approved(candidate, "passed the gate")
            if self._config.mode == "canary" and self._config.approval == "required":
                return self._approved(candidate, "passed the gate; users meet it only after the approval")
            return self._start(candidate, live, fleet_state)
        ruling = trial_status(
            self._store, current, live=live.generation, config=self._config, voters=self._voters
        ).ruling
        reason = f"{current.mode} on {current.share:.0%}: {ruling.reason}"
        if ruling.action is Action.PROMOTE:
            return self._approved(candidate, reason)
        if ruling.action is Action.HOLD:
            return self._held(candidate, reason)
        self._note(candidate, None)
        return Ruling(action=ruling.action, reason=reason)

    def _approved(self, candidate: Adapter, reason: str) -> Ruling:
        """Promote, or wait for a person who does."""
        if self._config.approval == "none":
            return Ruling(action=Action.PROMOTE, reason=reason)
        return self._held(candidate, reason)

    def _held(self, candidate: Adapter, reason: str) -> Ruling:
        """Wait for a person (`daemon.promotion.stage` promotes at an operator's request)."""
        self._note(candidate, utcnow().timestamp())
        number = candidate.generation
        return Ruling(
            action=Action.WAIT,
            reason=f"{candidate.name} waits for approval: {reason}; look at `erratad adapters {number}`, then "
            f"`erratad promote {number}` or `erratad reject {number}`",
        )

    def _note(self, candidate: Adapter, since: float | None) -> None:
        """Keep since when the candidate waits for a person; None: it does not, or no more."""
        if candidate.run_id is None:
            return
        noted = self._store.runs.get(candidate.run_id).progress.get(WAITS_SINCE)
        if (noted is None) is not (since is None):
            self._store.runs.progress(candidate.run_id, {WAITS_SINCE: since})

    def _start(self, candidate: Adapter, live: Adapter, fleet_state: FleetState) -> Ruling:
        fleet_state.require(live)
        for server in fleet_state.serving:
            load_and_probe(self._fleet, candidate, server)
        self._store.trials.start(
            candidate.generation,
            mode=AdapterState(self._config.mode),
            share=self._config.share,
            concurrency=self._config.shadow_concurrency,
            actor=ACTOR,
        )
        self._reconciler.repair(live)
        return Ruling(
            action=Action.WAIT, reason=f"{candidate.name} begins its {self._config.mode} on {self._config.share:.0%}"
        )
