"""Reads configured or shipped JSONL files. Errors name the configuration key, the line and the field."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, Field, ValidationError

from connectors.messages import Text, Wire, sentences
from daemon.errors import ConfigError

Line = TypeVar("Line", bound=BaseModel)


class PromptLine(Wire):
    """Base of lines with one question."""

    system: Text | None = Field(default=None, min_length=1, description="System message before the prompt.")
    prompt: Text = Field(min_length=1)

    @property
    def messages(self) -> tuple[dict[str, str], ...]:
        """The conversation in the OpenAI chat format."""
        system = () if self.system is None else ({"role": "system", "content": self.system},)
        return (*system, {"role": "user", "content": self.prompt})


def source_of(path: Path | None, shipped: str) -> Traversable:
    """The configured file; None: the shipped file with that name."""
    return resources.files("daemon") / "data" / shipped if path is None else path


def numbered_lines(source: Traversable) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
    """
    lines = source.read_text(encoding="utf-8-sig").split("\n")  # not splitlines(): JSON strings may contain U+2028
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def read_lines(key: str, source: Traversable, model: type[Line], *, what: str) -> list[tuple[int, Line]]:
    """Line numbers and records; blank lines are skipped. `what`: name of a record, for errors.

    Raises:
        ConfigError: names the configuration's `key`, the file, the line and the field.
    """
    try:
        lines = numbered_lines(source)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"{key}: {source} cannot be read: {exc}; give a JSONL file, or null for the shipped set"
        ) from exc
    return [(number, _record(f"{key}: {source}, line {number}", line, model, what)) for number, line in lines]


def _record(where: str, line: str, model: type[Line], what: str) -> Line:
    try:
        return model.model_validate_json(line)
    except ValidationError as exc:
        [said] = sentences(exc.errors()[:1], whole=what)
        needed = ", ".join(name for name, one in model.model_fields.items() if one.is_required())
        raise ConfigError(
            f"{where}: {said}; each line is a JSON object with {needed} (daemon/data/ has examples)"
        ) from exc


class Identified(Protocol):
    """An item with a stable id."""

    @property
    def id(self) -> str: ...


Drawn = TypeVar("Drawn", bound=Identified)


def sample(items: Iterable[Drawn], limit: int, *, seed: int) -> list[Drawn]:
    """At most `limit` items with the lowest hash of seed and id, so adding or erasing other items moves none."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item.id}".encode()).digest())[:limit]
