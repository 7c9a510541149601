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
    TAUGHT = "taught"
    """An answer, or its start. At its tokens the model learns what the base model says under the teacher's prompt."""
    HINDSIGHT = "hindsight"
    """A flagged answer. It becomes less likely at the tokens that the complaint in the teacher's prompt blames."""


_BY_MODEL = frozenset(
    {ExampleKind.REPLAY, ExampleKind.ANALYSIS, ExampleKind.DRIFT, ExampleKind.TAUGHT, ExampleKind.HINDSIGHT}
)
_BY_TEACHER = frozenset({ExampleKind.TAUGHT, ExampleKind.HINDSIGHT})
_OPTIONAL: Mapping[str, Any] = {
    "teacher_messages": None,
    "early": False,
    "first_tokens": None,
    "sampled_logprobs": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One prompt and its completion. Only the completion's tokens contribute to the loss.

    `ends` is False if the completion was cut at a token limit: then no end-of-answer token is trained.

    With `teacher_messages` the completion is no target. It is the text at which the frozen base model, asked with these
    messages, is compared with the trained model, asked with `messages`.
    """

    messages: tuple[Mapping[str, Any], ...]
    completion: str
    kind: ExampleKind
    report_id: str | None = None
    ends: bool = True
    teacher_messages: tuple[Mapping[str, Any], ...] | None = None
    early: bool = False
    """Whether the first tokens decide (to refuse, to ignore an order, to keep a secret); later ones then count less."""
    first_tokens: int | None = None
    """Only so many tokens of the completion are used. None: all."""
    sampled_logprobs: tuple[float, ...] | None = None
    """Log-probability (nats) of each token of the completion, the end included, when it was sampled."""

    def __post_init__(self) -> None:
        if self.kind in _BY_TEACHER and self.teacher_messages is None:
            raise ValueError(f"an example of kind {self.kind.value} needs teacher_messages")

    @property
    def by_model(self) -> bool:
        """Whether a model wrote the completion, so that it may begin with thoughts."""
        return self.kind in _BY_MODEL

    @property
    def id(self) -> str:
        """Stable across runs: the first 16 hex digits of the SHA-256 of kind, report id and prompt.

        Several examples of one report may have the same prompt and a teacher: there completion and teacher count, too.
        """
        taught = [] if self.teacher_messages is None else [list(self.teacher_messages), self.completion]
        canonical = json.dumps([self.kind, self.report_id, list(self.messages), *taught], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def to_jsonl(examples: Sequence[Example]) -> bytes:
    """One JSON object per line, in order. What only examples with a teacher have is left out of others."""
    lines = [json.dumps({"id": example.id, **_values(example)}, ensure_ascii=False) for example in examples]
    return "".join(line + "\n" for line in lines).encode()


def _values(example: Example) -> dict[str, Any]:
    values = asdict(example)
    return {key: value for key, value in values.items() if key not in _OPTIONAL or value != _OPTIONAL[key]}


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
        teacher_messages=_tuple(values.get("teacher_messages")),
        early=values.get("early", False),
        first_tokens=values.get("first_tokens"),
        sampled_logprobs=_tuple(values.get("sampled_logprobs")),
    )


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
