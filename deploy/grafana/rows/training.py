"""The active training run and its dataset."""

from __future__ import annotations

from panels import bars, graph, mean_seconds

PANELS = [
    graph(
        "Loss, and distance from the base model",
        ("max(erratad_training_loss)", "loss"),
        ("max(erratad_training_kl_nats)", "distance"),
        ("max(erratad_training_entropy_nats)", "entropy"),
        about="Nats per token of the answers. Distance (KL divergence) and entropy are measured on lessons' prompts.",
        width=8,
    ),
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
    graph(
        "Optimiser steps per second", ("sum(rate(erratad_training_steps_total[$__rate_interval]))", "steps"), width=8
    ),
    bars(
        "Mean duration of stages",
        mean_seconds("erratad_run_stage_duration_seconds", "stage"),
        unit="s",
        width=8,
    ),
    bars("Examples in the latest dataset", ("max by (kind) (erratad_dataset_examples)", "{{kind}}")),
    bars("Lessons left out of the latest dataset", ("max by (reason) (erratad_dataset_left_out)", "{{reason}}")),
    graph(
        "Unusable lessons",
        ("max(erratad_dataset_left_out_ratio)", "left out"),
        about="Share of the latest run's lessons that the chat template refuses, that are too long, or that are empty.",
        unit="percentunit",
        width=8,
    ),
    bars(
        "Lessons with a teacher that helps",
        ("max by (kind) (erratad_teacher_flip_ratio)", "{{kind}}"),
        unit="percentunit",
        about="Share of the latest dataset's lessons, by kind of mistake. Only recipes with a tested teacher have it.",
        width=8,
    ),
    graph(
        "What complaints take from flagged answers",
        ("max(erratad_hindsight_advantage_nats)", "mean"),
        about="Nats per token; recipe hindsight. Near 0 there is nothing to learn from the complaints.",
        width=8,
    ),
]
