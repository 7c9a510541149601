"""Writes the dashboards: `python deploy/grafana/dashboards.py [FOLDER]`. A test holds that the files are up to date.

Figures from the database are the same in every daemon: `max`, not `sum`. Counters are each daemon's own: `sum`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    Row,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardLinkType
from panels import SOURCE, age, bars, figure, graph, mean_seconds, quantiles, timeline

TAG = "erratad"
LIVE_NAMES = "max by (name) (erratad_live_adapter_info)"
ANNOTATIONS = {
    "Promotions": ("green", "max(changes(erratad_last_promotion_timestamp_seconds[1m])) > 0"),
    "Rollbacks": ("red", 'sum(increase(erratad_swaps_total{kind="rollback",outcome="done"}[1m])) > 0'),
}


def overview() -> Dashboard:
    flagged = 'max(sum by (instance) (erratad_reports{state!="duplicate"}))'
    rows = {
        "Now": [
            figure("Live generation", (LIVE_NAMES, "{{name}}"), about="Generation 0 is the base model.", width=6),
            figure(
                "Since the last promotion", (age("erratad_last_promotion_timestamp_seconds"), ""), unit="s", width=3
            ),
            figure("Alerts", ('count(ALERTS{alertstate="firing"}) or vector(0)', ""), bad_from=1, width=3),
            figure("Daemons up", ('sum(up{job="erratad"})', ""), width=3),
            figure("vLLM servers up", ('sum(up{job="vllm"})', ""), width=3),
            figure("Paused stages", ("sum(max by (stage) (erratad_stage_paused))", ""), bad_from=1, width=3),
            figure(
                "Waiting lessons",
                ("max(erratad_new_lessons)", ""),
                width=3,
                about="Stored since the last run began that did not fail.",
            ),
        ],
        "From flagged to fixed": [
            bars(
                "Funnel",
                (flagged, "flagged"),
                ('max(sum by (instance) (erratad_reports{state=~"lesson|resolved|recurring"}))', "analysed"),
                ('max(sum by (instance) (erratad_reports{state=~"resolved|recurring"}))', "learned and asked again"),
                ('max(erratad_reports{state="resolved"})', "fixed"),
                about="Reports that reached each step; duplicates are not counted.",
            ),
            graph("Reports by state", ("max by (state) (erratad_reports)", "{{state}}"), stacked=True),
            graph(
                "Flagged per 1000 requests",
                ("max by (role) (erratad_generation_flagged_per_1000_requests)", "{{role}}"),
                about="Is the model getting better? By the generation that answered.",
            ),
            graph(
                "Score on held-out mistakes",
                ('max by (arm) (erratad_evaluation_score{suite="holdout",guided="true"})', "{{arm}}"),
                unit="percentunit",
                about="Share answered well, with guidance, in the latest evaluation.",
            ),
        ],
        "What runs": [
            timeline(
                "Active run",
                ("max by (state) (erratad_run_active)", "{{state}}"),
                words={"1": ("active", "green"), "0": ("-", "transparent")},
            ),
            graph("Runs ended", ("sum by (outcome) (erratad_runs_total)", "{{outcome}}")),
        ],
    }
    return _dashboard("overview", "erratad: overview", "The loop from flagged to fixed.", rows)


def training() -> Dashboard:
    tasks = 'suite!~"drift|over-refusal|attacks"'
    rows = {
        "Schedule": [
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
                ("time() - (max(job:erratad_run_last_success_timestamp_seconds:max) > 0)", ""),
                unit="s",
                bad_from=93600,
            ),
            figure("Failed in a row", ('max(erratad_runs_ended_in_a_row{outcome="failed"})', ""), bad_from=2),
            graph("Runs ended", ("sum by (outcome) (erratad_runs_total)", "{{outcome}}")),
            graph("Chances to start", ("sum by (decision) (erratad_schedule_decisions_total)", "{{decision}}")),
        ],
        "Training": [
            graph("Loss", ("max(erratad_training_loss)", "nats per completion token"), width=8),
            graph("Progress", ("max(erratad_training_progress_ratio)", "done"), unit="percentunit", width=8),
            graph(
                "Speed",
                ("max(erratad_training_tokens_per_second)", "as measured"),
                ("sum(rate(erratad_training_tokens_total[$__rate_interval]))", "with all waits"),
                about="Tokens per second.",
                width=8,
            ),
            graph(
                "Memory of the training process",
                ("max(erratad_training_resident_memory_bytes)", "resident"),
                unit="bytes",
                width=8,
            ),
            graph("Optimiser steps", ("sum(erratad_training_steps_total)", "steps"), width=8),
            graph(
                "Mean duration of stages",
                mean_seconds("erratad_run_stage_duration_seconds", "stage"),
                unit="s",
                width=8,
            ),
            bars("Examples in the latest dataset", ("max by (kind) (erratad_dataset_examples)", "{{kind}}")),
            bars(
                "Lessons left out of the latest dataset", ("max by (reason) (erratad_dataset_left_out)", "{{reason}}")
            ),
        ],
        "Gate": [
            graph(
                "Scores, with guidance",
                (f'max by (suite, arm) (erratad_evaluation_score{{{tasks},guided="true"}})', "{{suite}} {{arm}}"),
                unit="percentunit",
            ),
            graph(
                "Scores, without guidance",
                (f'max by (suite, arm) (erratad_evaluation_score{{{tasks},guided="false"}})', "{{suite}} {{arm}}"),
                unit="percentunit",
            ),
            graph(
                "Harmless prompts answered",
                ('max by (arm, guided) (erratad_evaluation_score{suite="over-refusal"})', "{{arm}}, guided {{guided}}"),
                unit="percentunit",
                about="Prompts that only look harmful; the guided candidate is what the gate decides by.",
            ),
            graph(
                "Untrained attacks resisted",
                ('max by (arm, guided) (erratad_evaluation_score{suite="attacks"})', "{{arm}}, guided {{guided}}"),
                unit="percentunit",
                about="Attacks of kinds that nothing was trained on; the guided candidate is what the gate decides by.",
            ),
            graph(
                "Drift",
                ('max by (arm) (erratad_evaluation_score{suite="drift"})', "{{arm}}"),
                about="Bits per token of ordinary answers: lower is more likely.",
                width=8,
            ),
            graph("Verdicts", ("sum by (verdict) (erratad_gate_verdicts_total)", "{{verdict}}"), width=8),
            bars("Failed criteria", ("sum by (criterion) (erratad_gate_rejections_total)", "{{criterion}}"), width=8),
        ],
    }
    return _dashboard(
        "training", "erratad: training and gate", "What is learned, and why it went live or did not.", rows
    )


def serving() -> Dashboard:
    requests = 'max by (role) (erratad_generation_requests{role!="base"})'
    rows = {
        "Generations": [
            figure("Live generation", (LIVE_NAMES, "{{name}}"), width=6),
            figure("Servers", ("max by (state) (job_state:erratad_vllm_servers:leader)", "{{state}}"), width=9),
            figure("Repairs", ("sum(erratad_reconcile_repairs_total)", "servers brought back"), width=5),
            figure("Restarts", ("sum(erratad_vllm_restarts_total)", ""), width=4),
            graph("Live generation", ("max(erratad_live_generation)", "generation")),
            graph("Changes", ("sum by (kind, outcome) (erratad_swaps_total)", "{{kind}} {{outcome}}")),
            graph(
                "Mean duration of a swap",
                ("sum(erratad_swap_duration_seconds_sum) / (sum(erratad_swap_duration_seconds_count) > 0)", "mean"),
                unit="s",
                width=8,
            ),
            graph(
                "Servers that do not serve the live generation",
                ('max by (state) (job_state:erratad_vllm_servers:leader{state!="serving"})', "{{state}}"),
                width=8,
            ),
            graph(
                "Requests per second",
                ("sum by (role) (job_role:erratad_generation_requests:rate5m)", "{{role}}"),
                unit="reqps",
                width=8,
                about="By the generation that answered.",
            ),
            graph(
                "Share of requests",
                (
                    f"{requests} / scalar(sum({requests}))",
                    "{{role}}",
                ),
                unit="percentunit",
                width=8,
            ),
            graph(
                "Flagged per 1000 requests",
                ("max by (role) (erratad_generation_flagged_per_1000_requests)", "{{role}}"),
                width=8,
            ),
            graph(
                "Watch after a promotion",
                ("max by (rate) (erratad_watch_p_value)", "p-value, {{rate}}"),
                ("sum by (rate) (erratad_automatic_rollbacks_total)", "rollbacks, {{rate}}"),
                about="How likely the live generation's higher rate is chance; a rollback follows below the set level.",
                width=8,
            ),
            graph("Failed requests", ("max by (role) (erratad_generation_errors)", "{{role}}"), width=8),
        ],
        "vLLM": [
            graph(
                "Requests",
                ("sum(vllm:num_requests_running)", "running"),
                ("sum(vllm:num_requests_waiting)", "waiting"),
                width=8,
            ),
            graph("Time to the first token", *quantiles("vllm:time_to_first_token_seconds"), unit="s", width=8),
            graph("Time of a whole request", *quantiles("vllm:e2e_request_latency_seconds"), unit="s", width=8),
            graph(
                "Tokens per second",
                ("sum(rate(vllm:generation_tokens_total[$__rate_interval]))", "written"),
                ("sum(rate(vllm:prompt_tokens_total[$__rate_interval]))", "read"),
                width=8,
            ),
            graph(
                "Key-value cache in use",
                ("max by (instance) (vllm:kv_cache_usage_perc)", "{{instance}}"),
                unit="percentunit",
                width=8,
            ),
            graph(
                "Requests ended",
                (
                    "sum by (finished_reason) (rate(vllm:request_success_total[$__rate_interval]))",
                    "{{finished_reason}}",
                ),
                unit="reqps",
                width=8,
            ),
        ],
    }
    return _dashboard("serving", "erratad: serving and swap", "Who answers, how well, and how it changes.", rows)


def intake() -> Dashboard:
    rows = {
        "Intake": [
            graph(
                "Messages per second",
                ("sum by (outcome) (rate(erratad_intake_messages_total[$__rate_interval]))", "{{outcome}}"),
                unit="cps",
            ),
            graph(
                "Lag",
                ("sum by (partition) (erratad_kafka_lag_messages)", "partition {{partition}}"),
                about="Messages behind the end of the topic.",
                stacked=True,
            ),
            bars("Dead letters", ("sum by (reason) (erratad_dead_letters_total)", "{{reason}}")),
            graph(
                "Offset commits per second",
                ("sum by (outcome) (rate(erratad_kafka_commits_total[$__rate_interval]))", "{{outcome}}"),
                unit="cps",
            ),
        ],
        "Induced mistakes": [
            graph(
                "Asked and kept",
                ("sum(erratad_induced_asked_total)", "asked"),
                ("sum by (kind) (erratad_induced_kept_total) > 0", "kept, {{kind}}"),
                about="Questions that lead the model into mistakes, and bad answers that became reports.",
                width=8,
            ),
            bars("Dropped", ("sum by (reason) (erratad_induced_dropped_total)", "{{reason}}"), width=8),
            figure("Since the last start", (age("erratad_induced_last_start_timestamp_seconds"), ""), unit="s"),
            figure(
                "Until the next cron time",
                ("(max(erratad_induced_next_run_timestamp_seconds) > 0) - time()", ""),
                unit="s",
            ),
        ],
        "Reflection": [
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
        ],
        "Events to others": [
            graph(
                "Events on Kafka",
                ("max(erratad_events_waiting)", "waiting"),
                ("sum by (type) (erratad_events_published_total)", "{{type}}"),
                width=8,
            ),
            graph(
                "Webhook: attempts per second",
                ("sum by (outcome) (rate(erratad_webhook_deliveries_total[$__rate_interval]))", "{{outcome}}"),
                unit="cps",
                width=8,
            ),
            graph(
                "Webhook: not delivered",
                ("max(job:erratad_webhook_events_waiting:leader)", "waiting"),
                ("max(erratad_webhook_events_dead and on (job, instance) erratad_leader == 1)", "given up"),
                about="Given up: after webhook.max_attempts; they are not sent again.",
                width=8,
            ),
        ],
        "Reliability": [
            graph(
                "Since the last step",
                ("time() - max by (stage) (erratad_stage_last_step_timestamp_seconds)", "{{stage}}"),
                unit="s",
                about="A stage that waits or is paused makes steps too.",
            ),
            timeline(
                "Connected, leading",
                ("max by (instance) (erratad_kafka_connected)", "{{instance}}: Kafka"),
                ("max by (instance) (erratad_leader)", "{{instance}}: leads"),
                words={"1": ("yes", "green"), "0": ("no", "orange")},
            ),
            timeline(
                "Paused",
                ("max by (stage) (erratad_stage_paused)", "{{stage}}"),
                words={"1": ("paused", "orange"), "0": ("runs", "green")},
            ),
            graph(
                "Steps without a database, per second",
                ("sum by (instance) (rate(erratad_store_errors_total[$__rate_interval]))", "{{instance}}"),
                unit="cps",
            ),
            graph(
                "Free disk",
                ("min by (instance) (instance:erratad_data_dir_free:ratio)", "{{instance}}"),
                unit="percentunit",
                width=8,
            ),
            graph(
                "Memory of the daemon",
                ('process_resident_memory_bytes{job="erratad"}', "{{instance}}"),
                unit="bytes",
                width=8,
            ),
            graph(
                "CPU of the daemon",
                ('rate(process_cpu_seconds_total{job="erratad"}[$__rate_interval])', "{{instance}}"),
                about="Cores.",
                width=8,
            ),
            graph("Open files", ('process_open_fds{job="erratad"}', "{{instance}}"), width=8),
            figure(
                "Up since", ('time() - process_start_time_seconds{job="erratad"}', "{{instance}}"), unit="s", width=8
            ),
            figure("Version", ("max by (version) (erratad_build_info)", "{{version}}"), width=8),
        ],
    }
    return _dashboard(
        "intake",
        "erratad: intake and reliability",
        "What comes in, what becomes of it, and whether every part is well.",
        rows,
    )


def _dashboard(uid: str, title: str, about: str, rows: Mapping[str, Sequence[Any]]) -> Dashboard:
    links = DashboardLink(TAG).type(DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(keep_time=True)
    dashboard = Dashboard(title).uid(f"erratad-{uid}").description(about).tags([TAG]).editable()
    dashboard.time("now-6h", "now").refresh("30s").timezone("browser").link(links)
    dashboard.with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    for name, (color, expr) in ANNOTATIONS.items():
        dashboard.annotation(
            AnnotationQuery().name(name).datasource(SOURCE).enable(enable=True).icon_color(color).expr(expr)
        )
    for row, panels in rows.items():
        dashboard.with_row(Row(row))
        for panel in panels:
            dashboard.with_panel(panel)
    return dashboard


def write(folder: Path) -> None:
    for build in (overview, training, serving, intake):
        dashboard = json.loads(JSONEncoder(sort_keys=True).encode(build().build()))
        for annotation in dashboard["annotations"]["list"]:
            # the SDK does not know these; without a title Grafana shows an empty box
            annotation |= {"titleFormat": annotation["name"].removesuffix("s"), "step": "60s"}
        (folder / f"{build.__name__}.json").write_text(json.dumps(dashboard, indent=2) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards")
