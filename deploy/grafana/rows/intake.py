"""Messages and requests that bring reports in."""

from __future__ import annotations

from panels import age, bars, figure, graph, increase

PANELS = [
    graph(
        "Messages per second",
        ("sum by (outcome) (rate(erratad_intake_messages_total[$__rate_interval]))", "{{outcome}}"),
        unit="cps",
    ),
    graph(
        "Lag",
        ("sum by (topic, partition) (erratad_kafka_lag_messages)", "{{topic}} {{partition}}"),
        about="Messages behind the end of each topic.",
        stacked=True,
    ),
    bars(
        "Positions lost",
        (increase("erratad_kafka_positions_lost_total", "cause"), "{{cause}}"),
        about="Partitions that are read again from their start. before_start: messages were deleted unread.",
    ),
    figure(
        "Since the latest report",
        (age("erratad_last_report_timestamp_seconds"), ""),
        unit="s",
        width=6,
        about="Of a user or a service; induced mistakes do not count.",
    ),
    figure(
        "Reports expected within",
        ("max(erratad_reports_expected_within_seconds)", ""),
        unit="s",
        width=6,
        about="intake.expect_report_within_h; 0: no alert.",
    ),
    bars(
        "Reports of the last day by the model they name",
        ("max by (names) (erratad_reports_last_day)", "{{names}}"),
        about="alias: the generation is unknown; other: a model not served here. Watch and trial count neither.",
    ),
    bars(
        "Short forms completed, or given up",
        (increase("erratad_completions_total", "result"), "{{result}}"),
    ),
    bars("Feedback that is no report", ("max by (state) (erratad_signals)", "{{state}}")),
    bars("Dead letters", (increase("erratad_dead_letters_total", "reason"), "{{reason}}")),
    bars("Redacted values", (increase("erratad_redacted_total", "kind"), "{{kind}}")),
    graph(
        "Offset commits per second",
        ("sum by (outcome) (rate(erratad_kafka_commits_total[$__rate_interval]))", "{{outcome}}"),
        unit="cps",
    ),
    figure(
        "Archived reports",
        ("max(erratad_reports_archived)", ""),
        width=6,
        about="Closed reports of past months, in files (storage.archive).",
    ),
    figure(
        "Latest file of the archive",
        ("1000 * max(erratad_archive_last_file_timestamp_seconds)", ""),
        unit="dateTimeFromNow",
        width=6,
        about="Whole months are archived, so a new file may take a month. 1970: never.",
    ),
    bars("Failures of the archive", (increase("erratad_archive_failures_total"), "failures")),
]
