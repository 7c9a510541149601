"""The account of what a run left out: one record per report and stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from daemon.labels import LEFT_OUT_TEXT, LeftOut
from daemon.records import COMPLETE_JSON


class LeftOutBy(StrEnum):
    """The part of a run that left out a report."""

    DATASET = "dataset"
    FINETUNE = "finetune"
    EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutReport:
    """A report that a run could not use, and why. Reports left out by choice (caps, duplicates) are only counted."""

    __pydantic_config__ = COMPLETE_JSON

    run_id: int
    report_id: str
    stage: LeftOutBy
    reason: LeftOut
    detail: str = ""

    @property
    def why(self) -> str:
        """The reason in words, with the detail."""
        return f"{LEFT_OUT_TEXT[self.reason]}{f' ({self.detail})' if self.detail else ''}"

    @property
    def said(self) -> str:
        """A sentence for operators."""
        return f"run {self.run_id} {_DID_NOT[self.stage]}: {self.why}"


_DID_NOT: Mapping[LeftOutBy, str] = {
    LeftOutBy.DATASET: "could not use it",
    LeftOutBy.FINETUNE: "did not train on it",
    LeftOutBy.EVALUATION: "could not measure it",
}
