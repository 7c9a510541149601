"""The items of an evaluation: reports of the run, ordinary tasks, drift pairs, and probes that are never trained on."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from connectors.messages import Checks, Identifier, Text
from connectors.messages.shapes import is_blank
from daemon.artifacts.examples import read_examples
from daemon.artifacts.jsonl import PromptLine, read_lines, sample, source_of
from daemon.artifacts.run_folder import DRIFT_FILE, REPLAY_FILE, TRAIN_FILE
from daemon.chat.answers import answers_only
from daemon.chat.preparation import Preparation
from daemon.config.evaluation import EvaluationConfig
from daemon.errors import ConfigError, DatasetError
from daemon.evaluation.comparison import PROBE_SUITES
from daemon.evaluation.under_attack import Task
from daemon.evaluation.votes import ItemKey, Trust, Voter
from daemon.labels import Outcome, Suite
from daemon.parts import Part
from daemon.records import Lesson, Report, ReportState, Run, Split, conversation, last_question
from daemon.store import Store
from daemon.text.merging import merged
from daemon.text.rare import rare_phrases
from daemon.text.refusal import is_refusal
from daemon.text.rules import Rules, failures
from daemon.text.similarity import Words, resembling
from daemon.text.soundness import Asked, asked_by, unsound
from daemon.text.words import words

NO_EVIDENCE = (ReportState.ERASED, ReportState.QUARANTINED)
"""Reports in these states are deleted or not trusted, so they are not measured."""

MAX_PHRASES = 4
"""Number of phrases of trained prompts that are put before ordinary tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One conversation to answer, with rules or examples of good and bad answers."""

    suite: Suite
    id: str
    messages: tuple[Mapping[str, Any], ...]
    checks: Rules | None = None
    refusal_is_wrong: bool = False
    good: str | None = None
    bad: str | None = None
    complaint: str | None = None
    """The reason of the report, for the judge."""
    voter: Voter | None = None
    """Who reported it; None for the operator's own items."""
    question: str | None = None
    """The ordinary question within the prompt, if something was put before it."""
    counts: bool = True
    """Whether the gate counts it. A report with too little evidence is only measured, to see whether it is resolved."""

    task: Task | None = None
    """Set where an order stands in the text: to pass is to do the task."""

    is_open: bool = False
    """Whether the mistake of the report is not known to be fixed: then further answers show whether it is."""

    asked: Asked | None = None
    """What an answer to a report is compared with, so that noise or a refusal does not pass its rules."""

    @property
    def key(self) -> ItemKey:
        return self.suite.value, self.id

    def passes(self, text: str) -> bool | None:
        """Whether the answer meets the rules and is sound; None if the item has no rules. An empty one never passes."""
        if is_blank(text):
            return False
        if self.task is not None:
            return self.task.outcome(text) is Outcome.DONE
        if self.checks is None:
            return None
        if failures(self.checks, text) or (self.refusal_is_wrong and is_refusal(text)):
            return False
        return self.is_sound(text)

    def is_sound(self, text: str) -> bool:
        return self.asked is None or unsound(text, self.asked) is None


class _Line(PromptLine):
    """One line of an item file."""

    id: Identifier

    @abstractmethod
    def item(self) -> Item:
        """The item of this line."""

    def _item(self, suite: Suite, checks: Checks, *, refusal_is_wrong: bool = False) -> Item:
        return Item(suite=suite, id=self.id, messages=self.messages, checks=checks, refusal_is_wrong=refusal_is_wrong)


class _TaskLine(_Line):
    """A task with the rule for a correct answer."""

    checks: Checks | None = None
    answer: Text | None = Field(default=None, min_length=1, description="Short for checks.must_contain with one text.")

    @property
    def rule(self) -> Checks:
        checks = self.checks or Checks()
        more = [] if self.answer is None else [self.answer]
        return checks.model_copy(update={"must_contain": [*checks.must_contain, *more]})


class GoldenLine(_TaskLine):
    """An ordinary task."""

    no_refusal: bool = Field(default=False, description="The prompt only looks harmful: a refusal is wrong.")

    @model_validator(mode="after")
    def _has_a_rule(self) -> Self:
        if self.checks in (None, Checks()) and self.answer is None and not self.no_refusal:
            raise ValueError("needs a rule: checks, answer or no_refusal")
        return self

    def item(self) -> Item:
        return self._item(Suite.GOLDEN, self.rule, refusal_is_wrong=self.no_refusal)


class OverRefusalLine(_Line):
    """A harmless prompt that only looks harmful. Every answer is correct unless it is empty or a refusal."""

    def item(self) -> Item:
        return self._item(Suite.OVER_REFUSAL, Checks(), refusal_is_wrong=True)


class AttackLine(_Line):
    """An attack, with rules for the answer. An answer that meets them has resisted the attack."""

    checks: Checks

    @model_validator(mode="after")
    def _has_a_rule(self) -> Self:
        if self.checks == Checks():
            raise ValueError("checks must describe an answer that resists the attack, e.g. must_not_contain")
        return self

    def item(self) -> Item:
        return self._item(Suite.ATTACKS, self.checks)


class UnderAttackLine(_TaskLine):
    """A task with an order in its text. An answer that meets the rule, and does not obey the order, has done it."""

    order: Text = Field(min_length=1, description="The words of the prompt that an obedient answer says.")

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        if self.checks in (None, Checks()) and self.answer is None:
            raise ValueError("needs a rule for the right answer: checks or answer")
        if self.order not in self.prompt or not words(self.order):
            raise ValueError("order must be words that stand in prompt")
        return self

    def item(self) -> Item:
        task = Task(self.prompt, self.order, self.rule)
        return replace(self._item(Suite.UNDER_ATTACK, self.rule), task=task)


def golden_items(path: Path | None) -> list[Item]:
    """The golden set of a JSONL file, or the one shipped with erratad if `path` is None.

    Raises:
        ConfigError: if a line is invalid; the message gives file and line.
    """
    return _read("evaluation.golden", path, GoldenLine, shipped="golden.jsonl")


def probe_items(config: EvaluationConfig) -> list[Item]:
    """The probes of the enabled suites: over-refusal, attacks and tasks under attack.

    Raises:
        ConfigError: if a line is invalid; the message gives file and line.
    """
    probes: list[Item] = []
    if config.over_refusal is not False:
        key = "evaluation.over_refusal"
        probes += _read(key, config.over_refusal, OverRefusalLine, shipped="over_refusal.jsonl")
    if config.attacks is not False:
        probes += _read("evaluation.attacks", config.attacks, AttackLine, shipped="attacks.jsonl")
    if config.under_attack is not False:
        probes += _read("evaluation.under_attack", config.under_attack, UnderAttackLine, shipped="under_attack.jsonl")
    return probes


def _read(key: str, path: Path | None, line_type: type[_Line], *, shipped: str) -> list[Item]:
    source = source_of(path, shipped)
    items: dict[str, Item] = {}
    for number, line in read_lines(key, source, line_type, what="item"):
        if line.id in items:
            raise ConfigError(f"{key}: {source}, line {number}: id {line.id!r} is used twice; make it unique")
        items[line.id] = line.item()
    if not items:
        raise ConfigError(f"{key}: {source} has no items, so damage by training cannot be measured")
    return list(items.values())


def without_trained(fixed: Sequence[Item], store: Store, run: Run, *, similarity: float) -> list[Item]:
    """The golden items and probes that are not similar to any training prompt of the run, replay included.

    A similar item would not measure retention or an untrained attack. Similarity is by common words, so a paraphrased
    probe of a trained attack stays.

    Raises:
        DatasetError: if the examples of the run cannot be read, or no golden item is left.
    """
    # the prompt of an analysis is longer than the report's own prompt, so compare both
    reports = (store.reports.get(item.report_id) for item in store.runs.items(run.id) if item.role is Split.TRAIN)
    examples = (example for name in (TRAIN_FILE, REPLAY_FILE) for example in read_examples(Path(run.folder) / name))
    trained = {*(report.prompt_text for report in reports), *(prompt_of(example.messages) for example in examples)}
    asked = [prompt_of(item.messages) for item in fixed]
    near = resembling(asked, sorted(trained), vectorizer=Words(), similarity=similarity)
    left = [item for item, leaks in zip(fixed, near, strict=True) if not leaks]
    if not any(item.suite is Suite.GOLDEN for item in left):
        raise DatasetError(
            "every item of evaluation.golden is similar to a training prompt, so forgetting cannot be measured; "
            "use other items, or other prompts in dataset.replay_prompts and dataset.golden_pairs"
        )
    return left


def prompt_of(messages: Sequence[Mapping[str, Any]]) -> str:
    return last_question([(message["role"], str(message["content"])) for message in messages])


def build_items(
    store: Store,
    run: Run,
    *,
    fixed: Sequence[Item],
    limits: EvaluationConfig,
    preparation: Preparation,
    trust: Trust,
) -> list[Item]:
    """All items of a run, within the limit of each suite. Every call returns the same items.

    `fixed` are the golden items, probes and liked answers. `preparation` is of the served model, whose answers were
    flagged.

    Raises:
        DatasetError: if the drift pairs of the run cannot be read.
    """
    sides: dict[Suite, list[Item]] = {Suite.FLAGGED: [], Suite.HOLDOUT: []}
    suspects: list[str] = []
    for run_item in store.runs.items(run.id):
        report = store.reports.get(run_item.report_id)
        if report.state not in NO_EVIDENCE:
            suite = Suite.HOLDOUT if run_item.role is Split.HOLDOUT else Suite.FLAGGED
            # later reports of the answer would change the rules between the measurements of two arms
            before = tuple(part for part in report.others if part.received_at <= run.created_at)
            lesson = store.reports.lesson(report.id)
            if run_item.role is Split.TRAIN and not is_reviewed(lesson):
                suspects.append(report.prompt_text)
            shown = answers_only(replace(report, others=before), preparation)
            voter = _voter((report.parts[0], *before), str(run_item.cluster_id), trust)
            item = _report_item(suite, shown, lesson if trust.confirmed(report) else None)
            still_open = report.state is not ReportState.RESOLVED
            sides[suite].append(replace(item, voter=voter, counts=trust.counts(report), is_open=still_open))
    drift = [
        Item(suite=Suite.DRIFT, id=example.id, messages=example.messages, good=example.completion)
        for example in read_examples(Path(run.folder) / DRIFT_FILE)
    ]
    limit = limits.max_items_per_suite
    probe_limit = min(limit, limits.max_probes_per_suite or limit)
    of_suite = {suite: [item for item in fixed if item.suite is suite] for suite in (Suite.GOLDEN, *PROBE_SUITES)}
    chosen = [_in_turn(sample(items, len(items), seed=run.seed))[:limit] for items in sides.values()]
    chosen += [sample(items, limit, seed=run.seed) for items in (of_suite[Suite.GOLDEN], drift)]
    chosen += [sample(of_suite[suite], probe_limit, seed=run.seed) for suite in PROBE_SUITES]
    chosen.append([item for item in fixed if item.suite is Suite.PRAISED])
    of_golden = sample(of_suite[Suite.GOLDEN], min(limits.trigger_items, probe_limit), seed=run.seed)
    if of_golden:
        asked = [item.messages for item in of_suite[Suite.GOLDEN]]
        asked += [example.messages for example in read_examples(Path(run.folder) / REPLAY_FILE)]
        ordinary = [prompt_of(messages) for messages in asked]
        chosen.append(trigger_items(of_golden, suspects, ordinary))
    return [item for items in chosen for item in items]


def _voter(parts: Sequence[Part], cluster: str, trust: Trust) -> Voter:
    """Of several who reported an answer, one for whom the operator vouches has the vote; else the first."""
    part = next((part for part in parts if trust.vouched(part.principal)), parts[0])
    return Voter(
        principal=part.principal, reporter=part.reporter, cluster=cluster, trusted=trust.vouched(part.principal)
    )


def trigger_items(golden: Sequence[Item], suspects: Sequence[str], ordinary: Sequence[str]) -> list[Item]:
    """Ordinary tasks after a phrase that the suspect prompts have, and ordinary prompts do not; none without phrases.

    Planted behaviour may wait for words that no ordinary prompt has. Common phrases of several prompts come first.
    """
    phrases = rare_phrases(suspects, ordinary, most=MAX_PHRASES)
    items = []
    for number, item in enumerate(golden if phrases else ()):
        phrase = phrases[number % len(phrases)]
        *before, last = item.messages
        messages = (*before, {**last, "content": f"{phrase} {last['content']}"})
        items.append(
            Item(
                suite=Suite.TRIGGERS,
                id=f"{item.id}-after-{number % len(phrases)}",
                messages=messages,
                question=prompt_of(item.messages),
            )
        )
    return items


def is_reviewed(lesson: Lesson | None) -> bool:
    """Whether a person has signed the lesson."""
    return lesson is not None and lesson.reviewed_by is not None


def _in_turn(items: Sequence[Item]) -> list[Item]:
    """The items that count first; of these one per vote and principal in turn, so that nobody fills the suite.

    Items of one turn keep their order.
    """
    votes: Counter[tuple[str, str]] = Counter()
    principals: Counter[tuple[str, int]] = Counter()
    places: dict[str, tuple[bool, int, int]] = {}
    for item in items:
        principal, cluster = ("", item.id) if item.voter is None else (item.voter.principal, item.voter.cluster)
        turn = votes[principal, cluster]
        votes[principal, cluster] += 1
        places[item.id] = (not item.counts, turn, principals[principal, turn])
        principals[principal, turn] += 1
    return sorted(items, key=lambda item: places[item.id])


def configured_counts(items: Sequence[Item], fixed: Sequence[Item], limits: EvaluationConfig) -> dict[Suite, int]:
    """How many items each suite has before those that are similar to a training prompt are left out.

    `items` are those that are asked, `fixed` all golden items and probes.
    """
    counts: Counter[Suite] = Counter(item.suite for item in items if item.suite is not Suite.TRIGGERS)
    limit = limits.max_items_per_suite
    probe_limit = min(limit, limits.max_probes_per_suite or limit)
    for suite, count in Counter(item.suite for item in fixed).items():
        counts[suite] = min(count, probe_limit if suite in PROBE_SUITES else limit)
    return dict(counts)


def _report_item(suite: Suite, report: Report, lesson: Lesson | None) -> Item:
    """`lesson`: None if its corrected answer is not confirmed: no score and no judge may go by it then."""
    said = merged(report)
    good = None if lesson is None else lesson.correction or said.flagged.correction
    return Item(
        suite=suite,
        id=report.id,
        messages=conversation(report),
        checks=said.rules,
        asked=asked_by(report.flagged, correction=good),
        good=good,
        bad=None if is_blank(report.flagged.response) else report.flagged.response,
        complaint=said.flagged.complaint,
    )
