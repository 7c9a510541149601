"""The loop at a glance: the present state, the way from flagged to fixed, and the active run."""

from __future__ import annotations

from panels import age, bars, figure, graph, increase, timeline

from rows.generations import LIVE_NAMES

SCOPE = "namespace, release, model"
NAMED = "{{namespace}} {{release}} {{model}}"
RELEASES = [
    bars(
        "Firing alerts",
        (f'sum by ({SCOPE}) (ALERTS{{alertstate="firing"}}) or sum by ({SCOPE}) (up{{job="erratad"}}) * 0', NAMED),
        width=8,
        everywhere=True,
    ),
    bars(
        "Daemons and servers up",
        (f'sum by (job, {SCOPE}) (up{{job=~"erratad|vllm"}})', f"{{{{job}}}} {NAMED}"),
        width=8,
        everywhere=True,
    ),
    bars("Live generation", (f"max by ({SCOPE}) (erratad_live_generation)", NAMED), width=8, everywhere=True),
]
"""All releases that this Prometheus watches, whichever is chosen above."""
FLAGGED = 'max(sum by (instance) (erratad_reports{state!="duplicate"}))'

NOW = [
    figure("Live generation", (LIVE_NAMES, "{{name}}"), about="Generation 0 is the base model.", width=6),
    figure("Since the last promotion", (age("erratad_last_promotion_timestamp_seconds"), ""), unit="s", width=3),
    figure("Alerts", ('count(ALERTS{alertstate="firing"}) or vector(0)', ""), bad_from=1, width=3),
    figure("Daemons up", ('sum(up{job="erratad"})', ""), width=3),
    figure("vLLM servers up", ('sum(up{job="vllm"})', ""), width=3),
    figure("Paused stages", ("sum(max by (stage) (erratad_stage_paused))", ""), bad_from=1, width=3),
    figure(
        "Waiting lessons",
        ("max(erratad_new_lessons)", ""),
        width=3,
        about="Stored since the start of the last run that did not fail.",
    ),
]

RETESTED = "resolved|improved|not-reproduced|recurring"
FUNNEL = [
    bars(
        "Funnel",
        (FLAGGED, "flagged"),
        (
            'max(sum by (instance) (erratad_reports{state=~"lesson|resolved|improved|not-reproduced|recurring"}))',
            "analysed",
        ),
        (
            'max(sum by (instance) (erratad_reports{state=~"resolved|improved|not-reproduced|recurring"}))',
            "learned and asked again",
        ),
        ('max(erratad_reports{state="resolved"})', "fixed"),
        about="Reports that reached each step; duplicates are not counted.",
    ),
    graph("Reports by state", ("max by (state) (erratad_reports)", "{{state}}"), stacked=True),
    graph(
        "Flagged answers",
        ("max by (role) (erratad_generation_flagged_ratio)", "{{role}}"),
        unit="percentunit",
        about="Is the model getting better? By the generation that answered.",
    ),
    graph(
        "Score on held-out mistakes",
        ('max by (arm) (erratad_evaluation_score{suite="holdout",guided="true"})', "{{arm}}"),
        unit="percentunit",
        about="Share answered well, with guidance, in the latest evaluation.",
    ),
]

RUNS = [
    timeline(
        "Active run",
        ("max by (state) (erratad_run_active)", "{{state}}"),
        words={"1": ("active", "green"), "0": ("-", "transparent")},
    ),
    bars("Runs ended", (increase("erratad_runs_total", "outcome"), "{{outcome}}"), about="In the time shown."),
]
