"""The start of training runs."""

from __future__ import annotations

from panels import age, bars, figure, increase

PANELS = [
    figure(
        "New lessons",
        ("max(erratad_new_lessons)", "waiting"),
        ("max by (trigger) (erratad_schedule_min_lessons)", "needed: {{trigger}}"),
        width=8,
    ),
    figure(
        "Until the next cron time",
        ("(max(erratad_schedule_next_run_timestamp_seconds) > 0) - time()", ""),
        unit="s",
    ),
    figure("Since the last start", (age("erratad_schedule_last_start_timestamp_seconds"), ""), unit="s"),
    figure(
        "Since the last verdict",
        ("time() - (max(release:erratad_run_last_success_timestamp_seconds:max) > 0)", ""),
        unit="s",
        bad_from=93600,
    ),
    figure("Failed in a row", ('max(erratad_runs_ended_in_a_row{outcome="failed"})', ""), bad_from=2),
    bars("Runs ended", (increase("erratad_runs_total", "outcome"), "{{outcome}}"), about="In the time shown."),
    bars("Chances to start", (increase("erratad_schedule_decisions_total", "decision"), "{{decision}}")),
]
