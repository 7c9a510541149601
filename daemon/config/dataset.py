"""Section `dataset`: selection of lessons and their training examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from connectors.messages import Name
from daemon.categories import Kind
from daemon.config.section import Fraction, Positive, Section, ShippedFile

Cosine = Annotated[float, Field(gt=0, le=1)]
Device = Literal["cpu", "cuda"]
SAME_KIND = {"words": 0.8, "embeddings": 0.5}
"""Minimum cosine similarity of two prompts of one kind, by vectorizer. Scaled embeddings of unrelated prompts are below
0.33 in 99 of 100 pairs."""


MEASURED_RECIPES: Mapping[Kind, str] = {
    Kind.PROMPT_INJECTION: "consistency",
    Kind.SECRET_LEAK: "context-distillation",
}
"""Kinds of mistakes for which another recipe was measured to be better (docs/results.md)."""


class OwnAnswersConfig(Section):
    """Answers that the base model draws itself, before a training with a teacher (`daemon.dataset.teaching`)."""

    count: Annotated[int, Field(ge=0, le=8)] = 4
    """Per lesson, half of them under the served guidance. 0: the corrected answer takes their place."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.8
    max_tokens: Annotated[int, Field(gt=0, le=512)] = 64


class DatasetConfig(Section):
    recipe: str = "mistake-analysis+correction"
    """`auto`: chosen for each kind of mistake by the measured flip rate of the teachers."""
    recipes: Mapping[Kind, str] = MEASURED_RECIPES
    """Kinds of mistakes with another recipe; none by default where `recipe` is given."""
    teacher_tokens: Annotated[int, Field(ge=48)] = 64
    """Longest answer of a teacher. Below 48, answers seem to be good because they are cut before the mistake."""
    own_answers: OwnAnswersConfig = OwnAnswersConfig()
    seed: int = 0
    holdout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    split_key_env: str | None = None
    """Variable with the secret that decides which clusters are held out; None: a file of the data directory."""
    similarity_by: Literal["words", "embeddings"] = "words"
    embedding_model: Path | None = None
    """Folder of a model in safetensors format; None: the served base model is used."""
    embedding_device: Device = "cpu"
    cluster_similarity: Cosine | None = None
    """Minimum cosine similarity of two prompts of one category in one cluster; None: see `SAME_KIND`."""
    near_duplicate: Cosine = 0.95
    """A report is left out if its question, answer and context each have at least this cosine similarity (words) to
    those of a report in the training set."""
    max_reports: Positive = 500
    max_per_cluster: Positive = 20
    tenants: Literal["all"] | Annotated[list[Name | None], Field(min_length=1)] = "all"
    """Tenants whose reports are trained on; null in the list: reports without a tenant."""
    max_per_reporter: Positive = 50
    """Per reporter of one principal."""
    max_principal_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Maximum share of a run, and of a cluster, of a principal without trust where others have lessons too. With n
    principals it is at least 1/n."""
    min_per_principal: Positive = 100
    """Places of a run that each principal may have, however few lessons others have."""
    replay_fraction: Fraction = 0.45
    """Share of ordinary pairs (the base model's own answers) among the examples of an epoch. Each epoch uses different
    pairs, if there are enough prompts."""
    max_replay_pairs: Positive = 500
    """Maximum number of ordinary pairs over all epochs. The base model answers each once."""
    replay_ahead: bool = True
    """Whether ordinary prompts are answered between runs, while no user asks the servers."""
    replay_in_context: Fraction = 0.5
    """Share of ordinary pairs with the system message of a flagged conversation; lower if too few conversations have
    one."""
    replay_prompts: Path | None = None
    """JSONL of {"prompt": ...}; None: the set shipped with erratad."""
    replay_max_tokens: Positive = 96
    golden_pairs: ShippedFile = None
    """JSONL of {"prompt": ..., "answer": ...}: answers approved by people."""
    golden_fraction: Fraction = 0.35
    """Share of golden pairs among the examples without replay; lower if the file has fewer."""

    @model_validator(mode="before")
    @classmethod
    def _one_recipe_is_for_all(cls, given: Any) -> Any:
        """A recipe that is given alone is for every kind of mistake."""
        alone = isinstance(given, Mapping) and "recipe" in given and "recipes" not in given
        return {**given, "recipes": {}} if alone else given

    @property
    def same_kind(self) -> float:
        """The minimum cosine similarity of two prompts of one kind."""
        return SAME_KIND[self.similarity_by] if self.cluster_similarity is None else self.cluster_similarity

    @property
    def same_by_words(self) -> float:
        """Like `same_kind`, but always for the comparison by words."""
        return self.same_kind if self.similarity_by == "words" else SAME_KIND["words"]
