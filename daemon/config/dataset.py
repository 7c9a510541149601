"""Section `dataset`: which lessons a run takes, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from daemon.config.section import Fraction, Positive, Section, ShippedFile

Cosine = Annotated[float, Field(gt=0, le=1)]
Device = Literal["cpu", "cuda"]
SAME_KIND = {"words": 0.8, "embeddings": 0.5}
"""Cosine similarity from which two prompts are one kind, by the way of comparing: scaled embeddings of two unrelated
prompts stay below 0.33 in 99 of 100 pairs."""


class DatasetConfig(Section):
    recipe: str = "mistake-analysis+correction"
    seed: int = 0
    holdout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    similarity_by: Literal["words", "embeddings"] = "words"
    embedding_model: Path | None = None
    """Folder of a model in safetensors format; None: the served base model stands in."""
    embedding_device: Device = "cpu"
    cluster_similarity: Cosine | None = None
    """Two prompts of one category with at least this cosine similarity are one cluster; None: see `SAME_KIND`."""
    near_duplicate: Cosine = 0.95
    """A report whose question, answer and context each have this cosine similarity (words) to those of a report that
    is trained on already is left out."""
    max_reports: Positive = 500
    max_per_cluster: Positive = 20
    max_per_reporter: Positive = 50
    replay_fraction: Fraction = 0.45
    """Share of ordinary pairs (the base model's own answers) among the examples of an epoch; each epoch has pairs of
    its own, as far as the prompts reach."""
    max_replay_pairs: Positive = 500
    """At most so many of them in all epochs: the base model answers each once."""
    replay_in_context: Fraction = 0.5
    """Share of ordinary pairs that stand under the system messages of flagged conversations; smaller where fewer of
    these have one."""
    replay_prompts: Path | None = None
    """JSONL of {"prompt": ...}; None: the set shipped with erratad."""
    replay_max_tokens: Positive = 96
    golden_pairs: ShippedFile = None
    """JSONL of {"prompt": ..., "answer": ...}: answers that people approved."""
    golden_fraction: Fraction = 0.35
    """Their share of the examples that are not replay; smaller where the file holds fewer."""

    @property
    def same_kind(self) -> float:
        """The cosine similarity from which two prompts are about the same thing."""
        return SAME_KIND[self.similarity_by] if self.cluster_similarity is None else self.cluster_similarity

    @property
    def same_by_words(self) -> float:
        """As `same_kind`, for what is compared by words whatever `similarity_by` says."""
        return self.same_kind if self.similarity_by == "words" else SAME_KIND["words"]
