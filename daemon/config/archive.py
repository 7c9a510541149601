"""Section `storage.archive`: closed reports move from the database into Parquet files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from daemon.config.section import Section


class ArchiveConfig(Section):
    after_days: Annotated[float, Field(ge=31)] | None = None
    """Closed reports of months that ended this long ago are moved; None: none. Trends look back 30 days."""
    folder: Path | None = None
    """None: `archive` in the data directory."""
    batch: Annotated[int, Field(ge=100, le=20_000)] = 2000
    """Reports in a file. The database deletes them in one transaction, for which other writers wait."""

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        if self.after_days is not None and find_spec("pyarrow") is None:
            raise ValueError("it needs pyarrow: pip install 'erratad[archive]'")
        return self
