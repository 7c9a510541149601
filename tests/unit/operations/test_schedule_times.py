"""What check-config says about cron times and blackouts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from daemon.config import Config
from daemon.operations.schedule_times import next_times, schedule_notes

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


def notes(make_config: Callable[..., Config], **schedule: Any) -> list[str]:
    return list(schedule_notes(make_config(schedule=schedule), NOW))


def test_the_next_five_cron_times_are_shown_in_the_configured_zone(make_config: Callable[..., Config]) -> None:
    [note] = notes(make_config, cron="0 3 * * mon", timezone="Europe/Berlin")
    assert note.startswith("schedule.cron: the next times are Mon 2026-11-30 03:00 CET, Mon 2026-12-07 03:00 CET")
    assert note.count("03:00 CET") == 5


@pytest.mark.parametrize("cron", ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *"])
def test_a_cron_expression_that_never_comes_is_named(cron: str, make_config: Callable[..., Config]) -> None:
    [note] = notes(make_config, cron=cron)
    assert note == f"schedule.cron: {cron!r} never comes: no such day exists; correct it, or set it to null"


@pytest.mark.parametrize(("start", "end", "whole"), [("02:00", "02:00", True), ("02:00", "02:01", False)])
def test_a_blackout_that_ends_when_it_starts_is_named(
    start: str, end: str, whole: bool, make_config: Callable[..., Config]
) -> None:
    found = notes(make_config, cron=None, blackout=[{"start": start, "end": end}])
    assert bool(found) is whole
    assert not whole or "covers 24 hours" in found[0]


def test_cron_times_within_a_blackout_are_counted(make_config: Callable[..., Config]) -> None:
    window = {"start": "02:00", "end": "04:00", "days": ["mon", "tue"]}
    [note] = notes(make_config, cron="0 3 * * *", blackout=[window])
    assert note.endswith("; 2 of them lie in a blackout, so the run starts when it ends")


def test_the_end_of_summer_time_is_passed() -> None:
    """apscheduler 3.11.0 and 3.11.1 searched this time without end."""
    times = next_times("30 2 * * *", "Europe/Berlin", datetime(2027, 10, 30, 12, 0, tzinfo=UTC))
    assert [f"{one:%d %H:%M %Z}" for one in times] == [
        "31 02:30 CEST",
        "31 02:30 CET",
        "01 02:30 CET",
        "02 02:30 CET",
        "03 02:30 CET",
    ]
