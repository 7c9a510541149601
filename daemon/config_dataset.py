"""Section `dataset`: which lessons a run takes, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from daemon.config_section import Fraction, Positive, Section

Cosine = Annotated[float, Field(gt=0, le=1)]


class DatasetConfig(Section):
    recipe: str = "mistake-analysis+correction"
    seed: int = 0
    holdout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    cluster_similarity: Cosine = 0.8
    """Two prompts of one category with at least this cosine similarity are one cluster."""
    near_duplicate: Cosine = 0.95
    """A report whose question, answer and context each have this cosine similarity (words) to those of a report that
    is trained on already is left out."""
    max_reports: Positive = 500
    max_per_cluster: Positive = 20
    max_per_reporter: Positive = 50
    replay_fraction: Fraction = 0.2
    """Share of ordinary pairs (the base model's own answers) in the training set."""
    replay_prompts: Path | None = None
    """JSONL of {"prompt": ...}; None: the set shipped with erratad."""
    replay_max_tokens: Positive = 96
