"""Messages and requests that bring reports in."""

from __future__ import annotations

from panels import bars, graph

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
        ("sum by (cause) (erratad_kafka_positions_lost_total)", "{{cause}}"),
        about="Partitions that are read again from their start. before_start: messages were deleted unread.",
    ),
    bars("Short forms completed, or given up", ("sum by (result) (erratad_completions_total)", "{{result}}")),
    bars("Feedback that is no report", ("max by (state) (erratad_signals)", "{{state}}")),
    bars("Dead letters", ("sum by (reason) (erratad_dead_letters_total)", "{{reason}}")),
    bars("Redacted values", ("sum by (kind) (erratad_redacted_total)", "{{kind}}")),
    graph(
        "Offset commits per second",
        ("sum by (outcome) (rate(erratad_kafka_commits_total[$__rate_interval]))", "{{outcome}}"),
        unit="cps",
    ),
]
