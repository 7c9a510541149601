"""Section `induction`: mistakes that erratad provokes itself (red-teaming)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from daemon.config.section import Positive, Seconds, Section


class InductionConfig(Section):
    enabled: bool = False
    cron: str | None = "0 1 * * *"
    """In the time zone of `schedule.timezone`; None: only by command."""
    model: Literal["live", "base"] = "live"
    """The model to attack: the live generation or the base model. Both are asked by raw name, so without guidance."""
    seeds: Path | None = None
    """JSONL of instructions, see `daemon.induction.seeds.Seed`; None: the set shipped with erratad."""
    hints: Path | None = None
    """JSONL of hints, see `daemon.induction.seeds.Hint`; None: the set shipped with erratad."""
    max_reports_per_run: Positive = 20
    max_questions_per_run: Positive = 200
    concurrency: Positive | None = None
    """Maximum number of questions at a time; None: as many as `serving.asking` allows, or with a judge 4."""
    max_tokens: Positive = 200
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    request_timeout_s: Seconds = 60.0
