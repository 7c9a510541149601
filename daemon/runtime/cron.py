"""Cron times: APScheduler handles time zones and missed times. Each due time is consumed once."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from daemon.records import utcnow


def missed_since(trigger: CronTrigger, since: datetime, now: datetime) -> datetime | None:
    """The first cron time after `since` that is already past, or None."""
    first: datetime | None = trigger.get_next_fire_time(None, since + timedelta(microseconds=1))
    return first if first is not None and first <= now else None


class CronClock:
    """Reports a due cron time until it is acknowledged. Without a cron expression, no time is ever due."""

    def __init__(self, cron: str | None, *, timezone: str, misfire_grace_s: float, last: datetime | None) -> None:
        """`last`: the last acknowledged time. Times after it that passed while no daemon ran count once."""
        zone = ZoneInfo(timezone)
        self._due = threading.Event()
        self._clock = BackgroundScheduler(timezone=zone)
        if cron is not None:
            self._add(CronTrigger.from_crontab(cron, timezone=zone), misfire_grace_s, last)
        self._clock.start()

    def _add(self, trigger: CronTrigger, misfire_grace_s: float, last: datetime | None) -> None:
        now = utcnow()
        since = now - timedelta(seconds=misfire_grace_s)
        if last is not None:
            since = max(since, last)
        self._clock.add_job(
            self._due.set,
            trigger,
            id="cron",
            next_run_time=missed_since(trigger, since, now) or trigger.get_next_fire_time(None, now),
            coalesce=True,
            max_instances=1,
            misfire_grace_time=int(misfire_grace_s) + 1,
        )

    @property
    def due(self) -> bool:
        return self._due.is_set()

    @property
    def next(self) -> datetime | None:
        job = self._clock.get_job("cron")
        return None if job is None else job.next_run_time

    def acknowledge(self) -> None:
        """Consume the due time."""
        self._due.clear()

    def text(self) -> str:
        """The next cron time as the end of a sentence, or an empty text."""
        return "" if self.next is None else f"; next cron time {self.next:%Y-%m-%d %H:%M %Z}"

    def close(self) -> None:
        self._clock.shutdown(wait=False)
