"""What a candidate is measured on: reports of its run, ordinary tasks, drift pairs, and probes never trained on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from connectors.messages import Checks, Identifier, Text
from daemon.artifacts.examples import read_examples
from daemon.artifacts.jsonl import PromptLine, read_lines, sample, source_of
from daemon.artifacts.run_folder import DRIFT_FILE, REPLAY_FILE, TRAIN_FILE
from daemon.config.evaluation import EvaluationConfig
from daemon.errors import ConfigError, DatasetError
from daemon.evaluation.comparison import PROBE_SUITES
from daemon.labels import Suite
from daemon.records import Lesson, Report, ReportState, Run, Split, conversation, last_question
from daemon.store import Store
from daemon.text.refusal import is_refusal
from daemon.text.rules import failures
from daemon.text.similarity import Words, resembling

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


class _Line(PromptLine):
    """One line of a file of items."""

    id: Identifier

    @abstractmethod
    def item(self) -> Item:
        """What is asked and how the answer is judged."""

    def _item(self, suite: Suite, checks: Checks, *, refusal_is_wrong: bool = False) -> Item:
        return Item(suite=suite, id=self.id, messages=self.messages, checks=checks, refusal_is_wrong=refusal_is_wrong)


class GoldenLine(_Line):
    """An ordinary task and the rule of a right answer."""

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
        return self._item(Suite.GOLDEN, checks, refusal_is_wrong=self.no_refusal)


class OverRefusalLine(_Line):
    """A harmless prompt that only looks harmful: any answer that is no refusal (and not empty) is right."""

    def item(self) -> Item:
        return self._item(Suite.OVER_REFUSAL, Checks(), refusal_is_wrong=True)


class AttackLine(_Line):
    """An attack, and the rules that an answer meets when the attack failed."""

    checks: Checks

    @model_validator(mode="after")
    def _has_a_rule(self) -> Self:
        if self.checks == Checks():
            raise ValueError("checks must say what an answer meets when the attack failed, e.g. must_not_contain")
        return self

    def item(self) -> Item:
        return self._item(Suite.ATTACKS, self.checks)


def golden_items(path: Path | None) -> list[Item]:
    """The golden set of a JSONL file; None: the one shipped with erratad.

    Raises:
        ConfigError: naming the file and the line.
    """
    return _read("evaluation.golden", path, GoldenLine, shipped="golden.jsonl")


def probe_items(config: EvaluationConfig) -> list[Item]:
    """The probes for over-refusal and the attacks that are switched on.

    Raises:
        ConfigError: naming the file and the line.
    """
    probes: list[Item] = []
    if config.over_refusal is not False:
        key = "evaluation.over_refusal"
        probes += _read(key, config.over_refusal, OverRefusalLine, shipped="over_refusal.jsonl")
    if config.attacks is not False:
        probes += _read("evaluation.attacks", config.attacks, AttackLine, shipped="attacks.jsonl")
    return probes


def _read(key: str, path: Path | None, line_type: type[_Line], *, shipped: str) -> list[Item]:
    source = source_of(path, shipped)
    items: dict[str, Item] = {}
    for number, line in read_lines(key, source, line_type, what="item"):
        if line.id in items:
            raise ConfigError(f"{key}: {source}, line {number}: id {line.id!r} stands twice; make it unique")
        items[line.id] = line.item()
    if not items:
        raise ConfigError(f"{key}: {source} holds no items, so nothing would show what training breaks")
    return list(items.values())


def without_trained(fixed: Sequence[Item], store: Store, run: Run, *, similarity: float) -> list[Item]:
    """The golden items and probes that resemble no prompt of the run's training set, replay included.

    Of the others, "kept" or "not trained on" would be untrue. Compared by words, as reports are clustered: a probe in
    other words of an attack that was trained on stays.

    Raises:
        DatasetError: when the run folder's examples cannot be read, and when no golden item is left.
    """
    # an analysis is trained under a longer prompt, so that the report's own is compared as well
    reports = (store.reports.get(item.report_id) for item in store.runs.items(run.id) if item.role is Split.TRAIN)
    examples = (example for name in (TRAIN_FILE, REPLAY_FILE) for example in read_examples(Path(run.folder) / name))
    trained = {*(report.prompt_text for report in reports), *(_asked(example.messages) for example in examples)}
    asked = [_asked(item.messages) for item in fixed]
    near = resembling(asked, sorted(trained), vectorizer=Words(), similarity=similarity)
    left = [item for item, leaks in zip(fixed, near, strict=True) if not leaks]
    if not any(item.suite is Suite.GOLDEN for item in left):
        raise DatasetError(
            "every item of evaluation.golden resembles a prompt that was trained on, so nothing would show what is "
            "forgotten; give other items, or other prompts in dataset.replay_prompts and dataset.golden_pairs"
        )
    return left


def _asked(messages: Sequence[Mapping[str, Any]]) -> str:
    return last_question([(message["role"], str(message["content"])) for message in messages])


def build_items(store: Store, run: Run, *, fixed: Sequence[Item], limits: EvaluationConfig) -> list[Item]:
    """Every item of one run, within the limits of each suite; the same ones whenever it is called.

    `fixed`: golden items and probes.

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
    limit = limits.max_items_per_suite
    probe_limit = min(limit, limits.max_probes_per_suite or limit)
    of_suite = {suite: [item for item in fixed if item.suite is suite] for suite in (Suite.GOLDEN, *PROBE_SUITES)}
    chosen = [sample(items, limit, seed=run.seed) for items in (*sides.values(), of_suite[Suite.GOLDEN], drift)]
    chosen += [sample(of_suite[suite], probe_limit, seed=run.seed) for suite in PROBE_SUITES]
    return [item for items in chosen for item in items]


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
