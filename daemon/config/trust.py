"""Section `trust`: what must be known about a report before a model learns from it. `daemon.trust` decides by it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from daemon.config.section import Fraction, Positive, Seconds, Section
from daemon.labels import Grade


class CorroborationConfig(Section):
    """When independent reports support each other."""

    principals: Annotated[int, Field(ge=2)] = 2
    """Minimum number of principals that report the same answer, or alike ones with corrections that agree ..."""
    share: Fraction = 0.34
    """... which must be more than this share of the principals that sent reports in the last `active_days`."""
    reporters: Annotated[int, Field(ge=2)] = 3
    """Or this number of reporters of one trusted source. Those of other sources never count: their names are free."""
    active_days: Positive = 30
    agreement: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Minimum word similarity (cosine) of two corrections that agree, without the words of the conversation."""


class ReproduceConfig(Section):
    """Asking a generation again, to see whether it makes the reported mistake."""

    samples: Annotated[int, Field(ge=0, le=20)] = 3
    """Answers per report; the first is greedy. 0: no report is asked again."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.7
    """Of all answers but the first."""
    max_tokens: Positive = 512
    similarity: Fraction = 0.7
    """Minimum cosine, by words, of an answer and the flagged one for a report without rules."""
    concurrency: Positive | None = None
    """Maximum number of questions at a time; None: as many as `serving.asking` allows."""
    request_timeout_s: Seconds = 120.0


class TrustConfig(Section):
    """Each step needs a grade, or a higher one; reports of trusted sources skip it.

    The order of the grades: claimed, reproduced, verified, corroborated, reviewed.
    """

    analyse: Grade = Grade.CLAIMED
    """To be analysed: claimed, reproduced or verified. The higher grades come after the analysis."""
    train_analysis: Grade = Grade.REPRODUCED
    """To train on the analysis of the mistake."""
    train_correction: Grade = Grade.REPRODUCED
    """To train on the corrected answer: evidence that the model gave the flagged one. Corroboration is none; for the
    text itself see `confirm_corrections`."""
    confirm_corrections: Literal["always", "untrusted", "never"] = "always"
    """Whose corrections must be corroborated, or judged better than the flagged answer."""
    train_unexplained: Grade = Grade.CORROBORATED
    """To train on the analysis of a bare thumbs-down, or to count it in the gate: nothing says what is wrong, so the
    analysis is the model's own guess. A trusted source does not skip this. Without it the report counts in statistics
    and groups alone."""
    gate: Grade = Grade.REPRODUCED
    """To count in the gate."""
    watch: Grade = Grade.CLAIMED
    """To count in the watch after a promotion."""
    corroboration: CorroborationConfig = CorroborationConfig()
    reproduce: ReproduceConfig = ReproduceConfig()

    @field_validator("analyse", "train_analysis", "train_correction", "train_unexplained", "gate", "watch")
    @classmethod
    def _is_something_known(cls, grade: Grade) -> Grade:
        if grade is Grade.CONTRADICTED:
            raise ValueError("contradicted reports are never used; choose claimed or a higher grade")
        return grade

    @field_validator("train_correction")
    @classmethod
    def _is_evidence_or_review(cls, grade: Grade) -> Grade:
        if grade is Grade.CORROBORATED:
            raise ValueError(
                "corroborated is not possible here: it does not show that the model gave the answer; choose claimed, "
                "reproduced, verified or reviewed, and say in confirm_corrections which corrections must be confirmed"
            )
        return grade

    @field_validator("analyse")
    @classmethod
    def _comes_before_the_analysis(cls, grade: Grade) -> Grade:
        if grade in {Grade.CORROBORATED, Grade.REVIEWED}:
            raise ValueError(
                f"{grade} is not possible here: it is known only after the analysis; "
                "choose claimed, reproduced or verified"
            )
        return grade
