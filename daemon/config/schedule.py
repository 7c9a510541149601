"""Section `schedule`: the start of training runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from daemon.config.section import Positive, Seconds, Section


class BlackoutWindow(Section):
    """No run starts between `start` and `end` (HH:MM, may cross midnight) on `days`."""

    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = [
        "mon", "tue", "wed", "thu", "fri", "sat", "sun",
    ]  # fmt: skip
    start: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
    end: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


class ScheduleConfig(Section):
    cron: str | None = "0 3 * * *"
    timezone: str = "UTC"
    min_lessons: Positive = 50
    """This many unused lessons start a run without waiting for the cron time."""
    min_lessons_on_cron: Positive = 10
    """With fewer new lessons, the cron run is skipped."""
    retry_after_failure_s: Seconds = 3600.0
    """For this long after a failed run, `min_lessons` starts no run; cron times and operators still do."""
    check_interval_s: Seconds = 10.0
    misfire_grace_s: Seconds = 3600.0
    blackout: list[BlackoutWindow] = []
