"""The run folder: the dataset files of a run, and the manifest with their checksums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from daemon.artifacts.files import sha256_file
from daemon.errors import DatasetError
from daemon.labels import LeftOut
from daemon.left_out import LeftOutBy, LeftOutReport
from daemon.records import RunItem, Split

TRAIN_FILE = "train.jsonl"
HOLDOUT_FILE = "holdout.jsonl"
REPLAY_FILE = "replay.jsonl"
DRIFT_FILE = "drift.jsonl"
MANIFEST_FILE = "manifest.json"
JOB_FILE = "job.json"
"""Input of the trainer: `daemon.training.job`."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetFile(_Record):
    sha256: str
    lines: int
    report_ids: tuple[str, ...] = Field(description="Reports behind the lines, sorted.")


class DatasetItem(_Record):
    report_id: str
    cluster_id: int
    role: Split


class UnusableReport(_Record):
    """A report that cannot become an example or a held-out prompt."""

    report_id: str
    reason: LeftOut
    detail: str


class Flips(_Record):
    """How often a teacher answers well where the model erred, of the lessons of one kind."""

    lessons: int = Field(description="Tested lessons: with a teacher, and with rules or a correction to judge it by.")
    flipped: int = Field(description="Those of which a teacher's answer is good.")

    @property
    def ratio(self) -> float:
        return self.flipped / self.lessons if self.lessons else 0.0


class DatasetManifest(_Record):
    """`manifest.json` of a run folder."""

    version: Literal[1] = 1
    run_id: int
    run_created_at: datetime = Field(description="Distinguishes runs with the same number in two databases.")
    generation: int
    recipe: str
    recipes: Mapping[str, str] = Field(default={}, description="Kinds of mistakes with another recipe.")
    flips: Mapping[str, Flips] = Field(default={}, description="The test of the teachers, by kind of mistake.")
    seed: int
    base_fingerprint: str
    files: Mapping[str, DatasetFile]
    items: tuple[DatasetItem, ...]
    examples: Mapping[str, int] = Field(description="Examples by kind.")
    replay_per_epoch: int | None = Field(
        default=None, description="Number of replay pairs per epoch, taken in turn; None: all."
    )
    left_out: Mapping[LeftOut, int] = Field(description="Lessons that were not used, by reason.")
    left_out_texts: Mapping[str, Mapping[LeftOut, int]] = Field(
        default={},
        description="Examples of used lessons, and ordinary pairs, that were not used, by kind and reason.",
    )
    unusable: tuple[UnusableReport, ...] = Field(
        default=(), description="The reports among `left_out` for a reason in their conversation."
    )
    erased: Mapping[str, int] = Field(default={}, description="Lines that were erased later, by file.")

    @model_validator(mode="before")
    @classmethod
    def _without_variants(cls, values: Any) -> Any:
        """Ignore the count of question variants in manifests of earlier versions; runs no longer make variants."""
        return (
            {key: value for key, value in values.items() if key != "variants"} if isinstance(values, dict) else values
        )

    def encode(self) -> bytes:
        return (self.model_dump_json(indent=2) + "\n").encode()

    def account(self) -> list[LeftOutReport]:
        return account_of(self.run_id, self.unusable)

    def run_items(self) -> list[RunItem]:
        return [
            RunItem(run_id=self.run_id, report_id=item.report_id, cluster_id=item.cluster_id, role=item.role)
            for item in self.items
        ]


def account_of(run_id: int, unusable: Iterable[UnusableReport]) -> list[LeftOutReport]:
    return [LeftOutReport(run_id=run_id, stage=LeftOutBy.DATASET, **one.model_dump()) for one in unusable]


def load_manifest(folder: Path) -> DatasetManifest:
    """Read the manifest of a run folder and verify the checksums of all files.

    Raises:
        DatasetError: names the missing or changed file.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = DatasetManifest.model_validate_json(path.read_bytes())
        for name, file in manifest.files.items():
            if sha256_file(folder / name) != file.sha256:
                raise DatasetError(f"{folder / name} was changed after it was written; start a new run")
    except OSError as exc:
        raise DatasetError(f"{exc.filename} cannot be read: {exc.strerror}; start a new run") from exc
    except ValidationError as exc:
        raise DatasetError(f"{path} is not a manifest: {exc.errors()[0]['msg']}; start a new run") from exc
    return manifest
