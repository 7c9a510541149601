"""What a candidate is measured on: reports of its run, the golden set of ordinary tasks, and drift pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from connectors.messages import Checks, Identifier, Text, Wire
from daemon.comparison import Suite
from daemon.errors import ConfigError
from daemon.recipes import conversation, read_examples
from daemon.records import Lesson, Report, ReportState, Run, Split
from daemon.rules import failures, is_refusal
from daemon.run_folder import DRIFT_FILE
from daemon.store import Store

NO_EVIDENCE = (ReportState.ERASED, ReportState.QUARANTINED)
"""Reports in these states are gone or mistrusted: nothing is measured on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One conversation to answer, and what is known of good and bad answers to it."""

    suite: Suite
    id: str
    messages: tuple[Mapping[str, Any], ...]
    checks: Checks | None = None
    refusal_is_wrong: bool = False
    good: str | None = None
    bad: str | None = None
    complaint: str | None = None
    """Why the bad answer was flagged, for a judge."""

    def passes(self, text: str) -> bool | None:
        """Whether the answer meets the rules; None when the item has none."""
        if self.checks is None:
            return None
        return not failures(self.checks, text) and not (self.refusal_is_wrong and is_refusal(text))


class GoldenItem(Wire):
    """One line of the golden file: an ordinary task and the rule of a right answer."""

    id: Identifier
    prompt: Text = Field(min_length=1)
    checks: Checks | None = None
    answer: Text | None = Field(default=None, min_length=1, description="Short for checks.must_contain with one text.")
    no_refusal: bool = Field(default=False, description="The prompt only looks harmful: a refusal is wrong.")

    @model_validator(mode="after")
    def _has_a_rule(self) -> Self:
        if self.checks in (None, Checks()) and self.answer is None and not self.no_refusal:
            raise ValueError("needs a rule: checks, answer or no_refusal")
        return self

    def item(self) -> Item:
        checks = self.checks or Checks()
        if self.answer is not None:
            checks = checks.model_copy(update={"must_contain": [*checks.must_contain, self.answer]})
        return Item(
            suite=Suite.GOLDEN,
            id=self.id,
            messages=({"role": "user", "content": self.prompt},),
            checks=checks,
            refusal_is_wrong=self.no_refusal,
        )


def golden_items(path: Path | None) -> list[Item]:
    """The golden set of a JSONL file; None: the one shipped with erratad.

    Raises:
        ConfigError: naming the file and the line.
    """
    source = resources.files("daemon") / "data" / "golden.jsonl" if path is None else path
    items: dict[str, Item] = {}
    try:
        lines = source.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"evaluation.golden: {source} cannot be read: {exc}; give a JSONL file") from exc
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            item = GoldenItem.model_validate_json(line).item()
        except ValidationError as exc:
            error = exc.errors()[0]
            field = ".".join(map(str, error["loc"])) or "item"
            raise ConfigError(f"evaluation.golden: {source}, line {number}: {field}: {error['msg']}") from exc
        if item.id in items:
            raise ConfigError(
                f"evaluation.golden: {source}, line {number}: id {item.id!r} stands twice; make it unique"
            )
        items[item.id] = item
    if not items:
        raise ConfigError(f"evaluation.golden: {source} holds no items, so nothing would show what training breaks")
    return list(items.values())


def build_items(store: Store, run: Run, *, golden: Sequence[Item], limit: int) -> list[Item]:
    """Every item of one run, at most `limit` of each suite; the same ones whenever it is called.

    Raises:
        DatasetError: when the run folder's drift pairs cannot be read.
    """
    sides: dict[Suite, list[Item]] = {Suite.FLAGGED: [], Suite.HOLDOUT: []}
    for run_item in store.runs.items(run.id):
        report = store.reports.get(run_item.report_id)
        if report.state not in NO_EVIDENCE:
            suite = Suite.HOLDOUT if run_item.role is Split.HOLDOUT else Suite.FLAGGED
            sides[suite].append(_report_item(suite, report, store.reports.lesson(report.id)))
    drift = [
        Item(suite=Suite.DRIFT, id=example.id, messages=example.messages, good=example.completion)
        for example in read_examples(Path(run.folder) / DRIFT_FILE)
    ]
    chosen = (sample(items, limit, seed=run.seed) for items in (*sides.values(), golden, drift))
    return [item for items in chosen for item in items]


def sample(items: Iterable[Item], limit: int, *, seed: int) -> list[Item]:
    """At most `limit` items, drawn by the hash of seed and id: what is added or erased elsewhere moves none of them."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item.id}".encode()).digest())[:limit]


def _report_item(suite: Suite, report: Report, lesson: Lesson | None) -> Item:
    return Item(
        suite=suite,
        id=report.id,
        messages=conversation(report),
        checks=None if report.checks == Checks() else report.checks,
        good=report.flagged.correction or (lesson.correction if lesson else None),
        bad=report.flagged.response,
        complaint=report.flagged.reason,
    )
