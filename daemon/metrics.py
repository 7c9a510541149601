"""Every Prometheus series that erratad exports, in pipeline order; labels come from closed sets."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, Info

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)

# intake
INTAKE_MESSAGES = Counter(
    "erratad_intake_messages_total", "Messages taken in, by channel and what became of them.", ["channel", "outcome"]
)
DEAD_LETTERS = Counter("erratad_dead_letters_total", "Messages sent to the dead-letter topic.", ["reason"])
KAFKA_CONNECTED = Gauge("erratad_kafka_connected", "1 while the intake consumer reaches a broker.")
KAFKA_LAG = Gauge("erratad_kafka_lag_messages", "Messages behind the end of each assigned partition.", ["partition"])
KAFKA_COMMITS = Counter("erratad_kafka_commits_total", "Offset commits, by outcome.", ["outcome"])
EVENTS_PUBLISHED = Counter("erratad_events_published_total", "Events acknowledged by the broker.", ["type"])
EVENTS_WAITING = Gauge("erratad_events_waiting", "Events in the outbox that no broker has acknowledged yet.")

# queue and reflection
REPORTS = Gauge("erratad_reports", "Reports by state.", ["state"])
OLDEST_QUEUED = Gauge("erratad_oldest_queued_report_age_seconds", "Age of the oldest report that waits for analysis.")
REFLECTIONS = Counter("erratad_reflections_total", "Attempts at an analysis, by outcome.", ["outcome"])
ANALYSES_REJECTED = Counter("erratad_analyses_rejected_total", "Analyses that failed a check.", ["check"])
REFLECTION_SECONDS = Histogram("erratad_reflection_duration_seconds", "One attempt at an analysis.", buckets=_SECONDS)
LESSONS = Counter(
    "erratad_lessons_total", "Lessons stored, by analyst and source of the correction.", ["analyst", "correction"]
)
NEW_LESSONS = Gauge("erratad_new_lessons", "Lessons that no finished run has used.")

# training
RUNS = Counter("erratad_runs_total", "Runs ended, by outcome.", ["outcome"])
RUN_ACTIVE = Gauge("erratad_run_active", "1 for the state that the active run is in.", ["state"])
RUN_STAGE_SECONDS = Histogram(
    "erratad_run_stage_duration_seconds", "Duration of one stage of a run.", ["stage"], buckets=_SECONDS
)
DATASET_EXAMPLES = Gauge("erratad_dataset_examples", "Examples in the latest dataset, by kind.", ["kind"])
TRAINING_LOSS = Gauge("erratad_training_loss", "Loss of the latest training step (nats per completion token).")
TRAINING_STEPS = Counter("erratad_training_steps_total", "Optimiser steps made.")
TRAINING_TOKENS = Counter("erratad_training_tokens_total", "Tokens trained on (prompt and completion).")
TRAINING_PROGRESS = Gauge("erratad_training_progress_ratio", "Share of the active training done.")

# evaluation and gate
EVALUATION_SCORE = Gauge(
    "erratad_evaluation_score", "Latest score per suite, arm and guidance.", ["suite", "arm", "guided"]
)
GATE_VERDICTS = Counter("erratad_gate_verdicts_total", "Verdicts of the gate.", ["verdict"])
GATE_REASONS = Counter("erratad_gate_rejections_total", "Failed criteria of rejected candidates.", ["criterion"])

# serving and promotion
LIVE_GENERATION = Gauge("erratad_live_generation", "Generation that is live (0: the base model).")
LIVE_ADAPTER = Info("erratad_live_adapter", "Name and run of the live adapter.")
LAST_PROMOTION = Gauge("erratad_last_promotion_timestamp_seconds", "When an adapter last went live.")
SWAPS = Counter("erratad_swaps_total", "Changes of the live generation, by kind and outcome.", ["kind", "outcome"])
SWAP_SECONDS = Histogram("erratad_swap_duration_seconds", "From the first load to the last flip.", buckets=_SECONDS)
SERVERS = Gauge("erratad_vllm_servers", "vLLM servers, by what was observed.", ["state"])
SERVER_RESTARTS = Counter("erratad_vllm_restarts_total", "Restarts of the managed vLLM server.")
RECONCILE_REPAIRS = Counter("erratad_reconcile_repairs_total", "Servers that were brought back to the live generation.")

# schedule and the process
SCHEDULE_NEXT_RUN = Gauge("erratad_schedule_next_run_timestamp_seconds", "Next cron time.")
SCHEDULE_LAST_START = Gauge("erratad_schedule_last_start_timestamp_seconds", "When a run was last started.")
SCHEDULE_DECISIONS = Counter("erratad_schedule_decisions_total", "Chances to start a run, by decision.", ["decision"])
STAGE_LAST_STEP = Gauge("erratad_stage_last_step_timestamp_seconds", "When a stage last made a step.", ["stage"])
STAGE_PAUSED = Gauge("erratad_stage_paused", "1 while a stage is paused.", ["stage"])
STORE_ERRORS = Counter("erratad_store_errors_total", "Steps that found the database unreachable.")
LEADER = Gauge("erratad_leader", "1 while this daemon leads schedule, training and promotion.")
BUILD = Info("erratad_build", "Version of erratad.")
