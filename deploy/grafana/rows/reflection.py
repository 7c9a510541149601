"""The analysis of reports."""

from __future__ import annotations

from panels import bars, graph, quantiles

PANELS = [
    graph(
        "Queue",
        ('max(erratad_reports{state="queued"})', "queued"),
        ('max(erratad_reports{state="reflecting"})', "being analysed"),
        width=8,
    ),
    graph(
        "Oldest report in the queue",
        ("max(erratad_oldest_queued_report_age_seconds)", "age"),
        unit="s",
        width=8,
    ),
    graph(
        "Attempts per second",
        ("sum by (outcome) (rate(erratad_reflections_total[$__rate_interval]))", "{{outcome}}"),
        unit="cps",
        width=8,
    ),
    graph("Duration of an attempt", *quantiles("erratad_reflection_duration_seconds"), unit="s", width=8),
    bars("Analyses refused", ("sum by (check) (erratad_analyses_rejected_total)", "{{check}}"), width=8),
    bars("Lessons by kind of mistake", ("sum by (kind) (erratad_lessons_by_kind_total)", "{{kind}}"), width=8),
    bars(
        "Lessons by analyst and source of the correction",
        ("sum by (analyst, correction) (erratad_lessons_total) > 0", "{{analyst}}, correction: {{correction}}"),
        width=24,
    ),
    bars("Evidence of reports", ("max by (evidence) (erratad_report_evidence)", "{{evidence}}"), width=12),
    bars("Looks for evidence", ("sum by (result) (erratad_evidence_total)", "{{result}}"), width=12),
    bars("Set aside by fault", ("sum by (fault) (erratad_set_aside_total)", "{{fault}}"), width=24),
]
