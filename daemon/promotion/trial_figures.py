"""The figures of a trial so far, read from the store; for the stage that decides and for operators' views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from daemon.config.rollout import RolloutConfig
from daemon.promotion.sequential import Rate
from daemon.promotion.trial import RatePair, Ruling, blinded, rule, rule_on_shadow, shadow_pairs
from daemon.promotion.voters import nameless
from daemon.records import AdapterState, TrialRun, utcnow
from daemon.store import Store
from daemon.store.flags import Electorate
from daemon.store.traffic import step_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStatus:
    """The state of a trial: its age in seconds, each rate of candidate and live generation, and the ruling on them."""

    trial: TrialRun
    age_s: float
    pairs: Mapping[str, RatePair]
    ruling: Ruling


def trial_status(
    store: Store,
    trial: TrialRun,
    *,
    live: int,
    config: RolloutConfig,
    voters: Electorate,
    at: datetime | None = None,
) -> TrialStatus:
    """Read the state of the current trial; `live` is the number of the live generation."""
    age_s = ((at or utcnow()) - trial.started_at).total_seconds()
    if trial.mode == AdapterState.SHADOW:
        figures = store.trials.shadowed(trial.generation)
        pairs, ruling = shadow_pairs(figures), rule_on_shadow(figures, config, age_s=age_s)
    else:
        pairs = _beside(store, trial.generation, live, trial.started_at, voters)
        ruling = rule(pairs, config, age_s=age_s)
        if (why := nameless(store.flags)) is not None:
            ruling = blinded(ruling, why, config)
    return TrialStatus(trial=trial, age_s=age_s, pairs=pairs, ruling=ruling)


def _beside(store: Store, candidate: int, live: int, since: datetime, voters: Electorate) -> dict[str, RatePair]:
    """Both generations' flagged and failed answers since the trial started; each voter counts once in total."""
    votes = store.flags.first_votes([candidate, live], voters, since=step_of(since))
    traffic = {generation: store.traffic.tally(generation, since=since) for generation in (candidate, live)}
    flagged = {
        generation: Rate(events=one.votes, requests=traffic[generation].requests, principals=one.principals)
        for generation, one in votes.items()
    }
    failed = {generation: Rate(events=one.errors, requests=one.requests) for generation, one in traffic.items()}
    return {
        name: RatePair(candidate=rates[candidate], live=rates[live])
        for name, rates in (("flagged", flagged), ("errors", failed))
    }
