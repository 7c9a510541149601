"""What becomes of a candidate on trial: pure decisions on the figures of a canary or a shadow.

Canary: flagged rate and error rate of the candidate against the live generation's beside it, by the sequential test of
`daemon.promotion.sequential`. Shadow: nobody sees the answers, so only soundness and time of paired answers can be
compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from connectors.vllm_wire import ShadowFigures
from daemon.config.rollout import RolloutConfig
from daemon.promotion.sequential import Rate, no_rise, rise


class Course(StrEnum):
    WAIT = "wait"
    PROMOTE = "promote"
    REJECT = "reject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What to do with the candidate now, and why, with the figures."""

    course: Course
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One rate of the candidate beside the live generation's."""

    candidate: Rate
    live: Rate

    def __str__(self) -> str:
        return f"{self.candidate} against {self.live}"


def level_of_each(pairs: Collection[object], config: RolloutConfig) -> float:
    """What the p-value of one rate must fall below: `alpha`, shared evenly."""
    return config.alpha / len(pairs)


def rule(pairs: Mapping[str, Pair], config: RolloutConfig, *, age_s: float, too_slow: str | None = None) -> Ruling:
    """Decide on the rates by name; `too_slow` says why where the candidate takes too long.

    A significant rise of any rate rejects at once. Bad events of all kinds together being significantly fewer than
    harmful promotes (each kind alone may be too rare to tell), but not before `min_duration_s`: users flag later than
    they ask.
    """
    level = level_of_each(pairs, config)
    said = "; ".join(f"{name}: {pair}" for name, pair in pairs.items())
    if any(min(pair.candidate.requests, pair.live.requests) < config.min_requests for pair in pairs.values()):
        return _unclear(config, age_s, f"fewer than {config.min_requests} requests each; {said}")
    for name, pair in pairs.items():
        evidence = rise(pair.candidate, pair.live, tolerance=config.tolerance)
        if evidence.significant(level):
            return Ruling(course=Course.REJECT, reason=f"{name} rose: {pair}, p = {evidence.p_value:.2g}")
    if too_slow is not None:
        return Ruling(course=Course.REJECT, reason=too_slow)
    together = _together(pairs.values())
    harmless = no_rise(together.candidate, together.live, harm=config.harm).significant(config.alpha)
    if harmless and age_s >= config.min_duration_s:
        return Ruling(course=Course.PROMOTE, reason=f"below {config.harm:g} times the live rates; {said}")
    return _unclear(config, age_s, said)


def _together(pairs: Collection[Pair]) -> Pair:
    """Events of all kinds among the same requests."""
    first = next(iter(pairs))
    return Pair(
        candidate=replace(first.candidate, events=sum(pair.candidate.events for pair in pairs)),
        live=replace(first.live, events=sum(pair.live.events for pair in pairs)),
    )


def _unclear(config: RolloutConfig, age_s: float, said: str) -> Ruling:
    if age_s < config.max_duration_s:
        return Ruling(course=Course.WAIT, reason=said)
    return Ruling(
        course=Course(config.when_unclear),
        reason=f"no significant rise in {config.max_duration_s:.0f} s, and rollout.when_unclear says "
        f"{config.when_unclear}; {said}",
    )


def shadow_pairs(figures: ShadowFigures) -> dict[str, Pair]:
    """The one rate that copies which nobody sees can show."""
    return {
        "unsound answers": Pair(
            candidate=Rate(events=figures.errors, requests=figures.pairs),
            live=Rate(events=figures.live_errors, requests=figures.pairs),
        )
    }


def rule_on_shadow(figures: ShadowFigures, config: RolloutConfig, *, age_s: float) -> Ruling:
    return rule(shadow_pairs(figures), config, age_s=age_s, too_slow=_too_slow(figures, config))


def _too_slow(figures: ShadowFigures, config: RolloutConfig) -> str | None:
    """Why the candidate takes too long; None where it does not."""
    if not figures.pairs or not 0 < config.max_slowdown * figures.live_seconds < figures.seconds:
        return None
    return f"{figures.seconds / figures.pairs:.2f} s per answer against {figures.live_seconds / figures.pairs:.2f} s"
