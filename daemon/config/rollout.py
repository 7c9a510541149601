"""Section `rollout`: how a candidate goes live, and the watch after that."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from daemon.config.section import Positive, Seconds, Section


class WatchConfig(Section):
    """The watch after a promotion: is the live generation flagged, or failing, more often than the previous one?"""

    enabled: bool = True
    window_s: Seconds = 86_400.0
    min_requests: Positive = 500
    """Minimum number of requests answered by each generation. The watch lasts longer than `window_s` until then."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Probability of a false alarm over all checks of one watch, split evenly between flagged rate and error rate."""
    tolerance: Annotated[float, Field(ge=1)] = 1.1
    """Increases up to this factor are tolerated."""
    interval_s: Seconds = 10.0


class RolloutConfig(Section):
    approval: Literal["required", "none"] = "none"
    """required: an accepted candidate waits until a person promotes it. A shadow, which no user sees, comes before it;
    a canary is replaced by the person's decision."""
    mode: Literal["direct", "canary", "shadow"] = "direct"
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of the conversations under the alias (canary), or of the requests (shadow)."""
    min_requests: Positive = 500
    """Minimum number of requests answered by the candidate before a decision."""
    min_duration_s: Annotated[float, Field(ge=0)] = 3600.0
    """Minimum duration of a trial, even with good figures: users flag an answer some time after they got it."""
    max_duration_s: Seconds = 86_400.0
    when_unclear: Literal["promote", "reject"] = "promote"
    """Decision after `max_duration_s` without significant figures. The candidate has passed the gate already."""
    when_blind: Literal["hold", "promote"] = "hold"
    """canary: while most reports name no generation, its good figures wait for a person, or promote it all the same."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    tolerance: Annotated[float, Field(ge=1)] = 1.1
    harm: Annotated[float, Field(gt=1)] = 2.0
    """A rate significantly below this factor of the live rate is harmless: promoted before `max_duration_s`."""
    max_slowdown: Annotated[float, Field(gt=1)] = 1.5
    """shadow: maximum ratio of the candidate's mean time per request to the live generation's."""
    shadow_concurrency: Positive = 2
    """shadow: maximum number of concurrent copies per server; further copies are dropped."""
    watch: WatchConfig = WatchConfig()

    @model_validator(mode="after")
    def _durations_fit(self) -> Self:
        if self.min_duration_s > self.max_duration_s:
            raise ValueError(
                f"min_duration_s ({self.min_duration_s:g}) must not exceed max_duration_s ({self.max_duration_s:g})"
            )
        return self
