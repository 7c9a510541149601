"""Decisions on a candidate on trial: pure functions of the figures of a canary or a shadow.

Canary: the candidate's flagged rate and error rate are compared with the live generation's by the sequential test of
`daemon.promotion.sequential`. Shadow: users do not see the answers, so only the soundness and the duration of paired
answers can be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from connectors.vllm_wire import ShadowFigures
from daemon.config.rollout import RolloutConfig
from daemon.promotion.sequential import Rate, no_rise, rise


class Action(StrEnum):
    WAIT = "wait"
    PROMOTE = "promote"
    REJECT = "reject"
    HOLD = "hold"
    """The figures would promote it, but they cannot show enough: a person decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """The next action for the candidate, and the reason with its figures."""

    action: Action
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePair:
    """One rate, of the candidate and of the live generation."""

    candidate: Rate
    live: Rate

    def __str__(self) -> str:
        return f"{self.candidate} against {self.live}"


def level_of_each(pairs: Collection[object], config: RolloutConfig) -> float:
    """The significance level of one rate: `alpha`, divided evenly among the rates."""
    return config.alpha / len(pairs)


def rule(pairs: Mapping[str, RatePair], config: RolloutConfig, *, age_s: float, too_slow: str | None = None) -> Ruling:
    """Decide on the rates by name; `too_slow` is the reason why the candidate is too slow, or None.

    A significant rise of any rate rejects the candidate at once. It is promoted if the rate of bad events of all kinds
    together is significantly below the harmful rate; one kind alone may be too rare for a decision. Promotion waits for
    `min_duration_s`, because users flag an answer some time after they asked.
    """
    level = level_of_each(pairs, config)
    text = "; ".join(f"{name}: {pair}" for name, pair in pairs.items())
    if any(min(pair.candidate.requests, pair.live.requests) < config.min_requests for pair in pairs.values()):
        return _unclear(config, age_s, f"fewer than {config.min_requests} requests each; {text}")
    for name, pair in pairs.items():
        evidence = rise(pair.candidate, pair.live, tolerance=config.tolerance)
        if evidence.significant(level):
            return Ruling(action=Action.REJECT, reason=f"{name} rose: {pair}, p = {evidence.p_value:.2g}")
    if too_slow is not None:
        return Ruling(action=Action.REJECT, reason=too_slow)
    together = _together(pairs.values())
    harmless = no_rise(together.candidate, together.live, harm=config.harm).significant(config.alpha)
    if harmless and age_s >= config.min_duration_s:
        return Ruling(action=Action.PROMOTE, reason=f"below {config.harm:g} times the live rates; {text}")
    return _unclear(config, age_s, text)


def blinded(ruling: Ruling, why: str, config: RolloutConfig) -> Ruling:
    """The ruling on a canary whose flags are not seen: that nobody flags it is no evidence that it is good."""
    hold = ruling.action is Action.PROMOTE and config.when_blind == "hold"
    return Ruling(
        action=Action.HOLD if hold else ruling.action,
        reason=f"{ruling.reason}; blind to flags: {why}{', and rollout.when_blind says hold' if hold else ''}",
    )


def _together(pairs: Collection[RatePair]) -> RatePair:
    """The rates of all kinds of events together, over the same requests."""
    first = next(iter(pairs))
    return RatePair(
        candidate=replace(first.candidate, principals=None, events=sum(pair.candidate.events for pair in pairs)),
        live=replace(first.live, principals=None, events=sum(pair.live.events for pair in pairs)),
    )


def _unclear(config: RolloutConfig, age_s: float, text: str) -> Ruling:
    if age_s < config.max_duration_s:
        return Ruling(action=Action.WAIT, reason=text)
    return Ruling(
        action=Action(config.when_unclear),
        reason=f"no significant rise in {config.max_duration_s:.0f} s, and rollout.when_unclear says "
        f"{config.when_unclear}; {text}",
    )


def shadow_pairs(figures: ShadowFigures) -> dict[str, RatePair]:
    """Shadow traffic only measures the rate of unsound answers."""
    return {
        "unsound answers": RatePair(
            candidate=Rate(events=figures.errors, requests=figures.pairs),
            live=Rate(events=figures.live_errors, requests=figures.pairs),
        )
    }


def rule_on_shadow(figures: ShadowFigures, config: RolloutConfig, *, age_s: float) -> Ruling:
    return rule(shadow_pairs(figures), config, age_s=age_s, too_slow=_too_slow(figures, config))


def _too_slow(figures: ShadowFigures, config: RolloutConfig) -> str | None:
    """The reason why the candidate is too slow, or None."""
    if not figures.pairs or not 0 < config.max_slowdown * figures.live_seconds < figures.seconds:
        return None
    return f"{figures.seconds / figures.pairs:.2f} s per answer against {figures.live_seconds / figures.pairs:.2f} s"
