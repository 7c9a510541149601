"""Sections of the configuration: how a candidate goes live, and what watches it then."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from daemon.config.section import Positive, Seconds, Section


class WatchConfig(Section):
    """After a promotion: is the live generation flagged, or failing, more often than the one before it?"""

    enabled: bool = True
    window_s: Seconds = 86_400.0
    min_requests: Positive = 500
    """Requests that both generations must have answered; the watch goes on beyond `window_s` until then."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Probability of a false alarm over all looks of one watch, shared evenly by flagged rate and error rate."""
    tolerance: Annotated[float, Field(ge=1)] = 1.1
    """A rise by up to this factor is none."""
    interval_s: Seconds = 10.0


class RolloutConfig(Section):
    mode: Literal["direct", "canary", "shadow"] = "direct"
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of the conversations under the alias that a canary answers, or of the requests that are shadowed."""
    min_requests: Positive = 500
    """Requests that the candidate must have answered before anything is decided."""
    min_duration_s: Annotated[float, Field(ge=0)] = 3600.0
    """No promotion sooner, however good the figures: users flag later than they ask."""
    max_duration_s: Seconds = 86_400.0
    when_unclear: Literal["promote", "reject"] = "promote"
    """What happens after `max_duration_s` without significant figures; the candidate did pass the gate."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    tolerance: Annotated[float, Field(ge=1)] = 1.1
    harm: Annotated[float, Field(gt=1)] = 2.0
    """Significantly less than this factor of the live rate: harmless, promoted before the time is over."""
    max_slowdown: Annotated[float, Field(gt=1)] = 1.5
    """shadow: a candidate whose mean time per request is more than this factor of the live one's is rejected."""
    shadow_concurrency: Positive = 2
    """shadow: copies that a server answers at the same time; further ones are dropped."""
    watch: WatchConfig = WatchConfig()

    @model_validator(mode="after")
    def _durations_fit(self) -> Self:
        if self.min_duration_s > self.max_duration_s:
            raise ValueError(
                f"min_duration_s ({self.min_duration_s:g}) must not exceed max_duration_s ({self.max_duration_s:g})"
            )
        return self
