"""Training examples and their JSONL file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from daemon.artifacts.jsonl import numbered_lines
from daemon.errors import DatasetError


class ExampleKind(StrEnum):
    ANALYSIS = "analysis"
    CORRECTION = "correction"
    VARIANT = "variant"
    """Only in datasets of earlier versions: a correction after a paraphrased question."""
    REPLAY = "replay"
    GOLDEN = "golden"
    DRIFT = "drift"


_BY_MODEL = frozenset({ExampleKind.REPLAY, ExampleKind.ANALYSIS, ExampleKind.DRIFT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One prompt and its completion. Only the completion's tokens contribute to the loss.

    `ends` is False if the completion was cut at a token limit: then no end-of-answer token is trained.
    """

    messages: tuple[Mapping[str, Any], ...]
    completion: str
    kind: ExampleKind
    report_id: str | None = None
    ends: bool = True

    @property
    def by_model(self) -> bool:
        """Whether a model wrote the completion, so that it may begin with thoughts."""
        return self.kind in _BY_MODEL

    @property
    def id(self) -> str:
        """Stable across runs: the first 16 hex digits of the SHA-256 of kind, report id and prompt."""
        canonical = json.dumps([self.kind, self.report_id, list(self.messages)], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def to_jsonl(examples: Sequence[Example]) -> bytes:
    """One JSON object per line, in order."""
    lines = [json.dumps({"id": example.id, **asdict(example)}, ensure_ascii=False) for example in examples]
    return "".join(line + "\n" for line in lines).encode()


def read_examples(path: Path) -> list[Example]:
    """Read a file written by `to_jsonl`.

    Raises:
        DatasetError: names the file and the line.
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
