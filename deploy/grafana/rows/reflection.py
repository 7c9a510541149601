"""The analysis of reports."""

from __future__ import annotations

from panels import bars, graph, increase, quantiles

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
    bars("Analyses refused", (increase("erratad_analyses_rejected_total", "check"), "{{check}}"), width=8),
    bars("Lessons by kind of mistake", (increase("erratad_lessons_by_kind_total", "kind"), "{{kind}}"), width=8),
    bars(
        "Lessons by analyst and source of the correction",
        (f"{increase('erratad_lessons_total', 'analyst, correction')} > 0", "{{analyst}}, correction: {{correction}}"),
        width=24,
    ),
    graph(
        "Reports by grade of evidence",
        ("max by (evidence) (erratad_report_evidence)", "{{evidence}}"),
        about="What is known about whether the model gave the flagged answer. docs/trust.md explains the grades.",
        stacked=True,
    ),
    bars("Looks for evidence", (increase("erratad_evidence_total", "result"), "{{result}}"), width=12),
    bars("Set aside by fault", (increase("erratad_set_aside_total", "fault"), "{{fault}}"), width=24),
]
