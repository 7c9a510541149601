"""The names of the stages. Imports nothing, so that the command line starts fast."""

from __future__ import annotations

STAGES = (
    "serving", "selftest", "ingest", "induction", "events", "webhook", "mlflow", "otlp", "outbox", "completions",
    "evidence", "reflection", "schedule", "dataset", "finetune", "evaluation", "promotion", "traffic", "watch",
    "retention", "archive", "gauges",
)  # fmt: skip
"""All stages, in pipeline order."""
PAUSABLE = tuple(stage for stage in STAGES if stage not in {"serving", "selftest"})
"""All stages except the supervisor of vLLM and the comparison of its servers with the trainer."""
