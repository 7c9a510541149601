"""One training example, and the file of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from daemon.errors import DatasetError
from daemon.runtime.jsonl import numbered_lines


class ExampleKind(StrEnum):
    ANALYSIS = "analysis"
    CORRECTION = "correction"
    VARIANT = "variant"
    """In datasets that an earlier version wrote: a correction after the question in other words."""
    REPLAY = "replay"
    GOLDEN = "golden"
    DRIFT = "drift"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One prompt and the text that follows it; the loss falls on the completion only.

    `ends` is False where the completion was cut at a token limit: no end-of-answer token is trained then.
    """

    messages: tuple[Mapping[str, Any], ...]
    completion: str
    kind: ExampleKind
    report_id: str | None = None
    ends: bool = True

    @property
    def id(self) -> str:
        """Stable across runs: the first 16 hex digits of the SHA-256 of prompt and kind."""
        canonical = json.dumps([self.kind, self.report_id, list(self.messages)], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def to_jsonl(examples: Sequence[Example]) -> bytes:
    """One JSON object per line, in order."""
    lines = [json.dumps({"id": example.id, **asdict(example)}, ensure_ascii=False) for example in examples]
    return "".join(line + "\n" for line in lines).encode()


def read_examples(path: Path) -> list[Example]:
    """The examples that `to_jsonl` wrote.

    Raises:
        DatasetError: naming the file and the line.
    """
    examples = []
    try:
        lines = numbered_lines(path)
    except (OSError, UnicodeDecodeError) as exc:
        raise DatasetError(f"{path} cannot be read: {exc}; start a new run") from exc
    for number, line in lines:
        try:
            examples.append(_example(json.loads(line)))
        except (ValueError, KeyError, TypeError) as exc:
            raise DatasetError(f"{path}, line {number} is not an example: {exc!r}; start a new run") from exc
    return examples


def _example(values: dict[str, Any]) -> Example:
    return Example(
        messages=tuple(values["messages"]),
        completion=values["completion"],
        kind=ExampleKind(values["kind"]),
        report_id=values["report_id"],
        ends=values["ends"],
    )
