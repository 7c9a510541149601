"""What the configured times mean: the next cron times, and windows or times that are likely mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from daemon.config import Config
from daemon.config.schedule import BlackoutWindow
from daemon.schedule import in_blackout

SHOWN_TIMES = 5


def schedule_notes(config: Config, now: datetime) -> Iterator[str]:
    """One sentence per cron expression, with its next times, and per blackout that covers whole days.

    The expressions must be valid.
    """
    zone, blackout = config.schedule.timezone, config.schedule.blackout
    crons = {"schedule.cron": config.schedule.cron}
    if config.induction.enabled:
        crons["induction.cron"] = config.induction.cron
    for key, cron in crons.items():
        if cron is not None:
            yield _times(key, cron, zone, blackout if key == "schedule.cron" else [], now)
    for number, window in enumerate(blackout):
        if window.start == window.end:
            yield (
                f"schedule.blackout.{number}: {window.start} to {window.end} covers 24 hours; remove it if no time was "
                "meant, or write another end"
            )


def next_times(cron: str, timezone: str, now: datetime) -> list[datetime]:
    """The next times of a cron expression, at most SHOWN_TIMES. Empty if it has none, e.g. on 31 February."""
    trigger = CronTrigger.from_crontab(cron, timezone=ZoneInfo(timezone))
    times: list[datetime] = []
    last, after = None, now
    while len(times) < SHOWN_TIMES and (following := trigger.get_next_fire_time(last, after)) is not None:
        times.append(following)
        last = after = following
    return times


def _times(key: str, cron: str, timezone: str, blackout: list[BlackoutWindow], now: datetime) -> str:
    times = next_times(cron, timezone, now)
    if not times:
        return f"{key}: {cron!r} never comes: no such day exists; correct it, or set it to null"
    text = f"{key}: the next times are {', '.join(f'{one:%a %Y-%m-%d %H:%M %Z}' for one in times)}"
    held = sum(in_blackout(one, blackout, timezone) is not None for one in times)
    if held:
        text += f"; {held} of them lie in a blackout, so the run starts when it ends"
    return text
