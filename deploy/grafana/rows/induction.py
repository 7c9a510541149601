"""Mistakes that the daemon provokes itself."""

from __future__ import annotations

from panels import age, bars, figure, increase

PANELS = [
    bars(
        "Asked and kept",
        (increase("erratad_induced_asked_total"), "asked"),
        (f"{increase('erratad_induced_kept_total', 'kind')} > 0", "kept, {{kind}}"),
        about="Questions that lead the model into mistakes, and bad answers that became reports.",
        width=8,
    ),
    bars("Dropped", (increase("erratad_induced_dropped_total", "reason"), "{{reason}}"), width=8),
    figure("Since the last start", (age("erratad_induced_last_start_timestamp_seconds"), ""), unit="s"),
    figure(
        "Until the next cron time",
        ("(max(erratad_induced_next_run_timestamp_seconds) > 0) - time()", ""),
        unit="s",
    ),
]
