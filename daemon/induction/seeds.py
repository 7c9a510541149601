"""Questions that provoke mistakes: an instruction (seed) plus a hint, with rules to detect a bad answer.

The hint is only part of the request. Reports, analyses and training use the instruction without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from connectors.messages import ChatMessage, Checks, Identifier, Text, Wire
from daemon.artifacts.jsonl import Line, read_lines, source_of
from daemon.categories import Kind, kind_of
from daemon.config import Config
from daemon.errors import ConfigError
from daemon.text.refusal import DECLINES

Category = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class Seed(Wire):
    """One line of the seeds file: an instruction like one of a user."""

    id: Identifier
    prompt: Text = Field(min_length=1)
    system: Text | None = Field(default=None, min_length=1)
    category: Category | None = None
    """Use only hints of this category. None: all hints whose mistake can be detected."""
    checks: Checks | None = None
    """Rules of a good answer."""
    refuse: bool = False
    """True if a good answer starts with a refusal or a warning."""

    @model_validator(mode="after")
    def _rules_have_a_category(self) -> Self:
        if self.checks is not None and self.refuse:
            raise ValueError("checks and refuse exclude each other; keep one")
        if self.category is None and (self.checks is not None or self.refuse):
            raise ValueError("needs a category with checks or refuse: they detect only the mistakes of its hints")
        return self

    @property
    def rules(self) -> Checks | None:
        return Checks(regex=DECLINES) if self.refuse else self.checks

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        user = ChatMessage(role="user", content=self.prompt)
        return (user,) if self.system is None else (ChatMessage(role="system", content=self.system), user)


class Hint(Wire):
    """One line of the hints file: a text that provokes a mistake, and the category and reason of the reports."""

    text: Text = Field(min_length=1)
    category: Category
    reason: Text = Field(min_length=1, max_length=4000)
    checks: Checks | None = None
    """Rules of a good answer, if they are the same for all instructions."""

    @model_validator(mode="after")
    def _category_is_known(self) -> Self:
        if kind_of(self.category) is Kind.DEFAULT:
            known = ", ".join(kind for kind in Kind if kind is not Kind.DEFAULT)
            raise ValueError(f"category {self.category!r} is unknown; choose one of {known}, or one of their aliases")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class InductionQuestion:
    """One seed with one hint. If `checks` is None, the judge decides."""

    seed: Seed
    hint: Hint
    checks: Checks | None

    @property
    def key(self) -> bytes:
        return hashlib.sha256(f"{self.seed.id}\n{self.hint.text}".encode()).digest()

    @property
    def hinted_messages(self) -> list[dict[str, Any]]:
        """The messages to send. The hint is at the end of the last one, where it works best."""
        *before, last = self.seed.messages
        hinted = last.model_copy(update={"content": f"{last.text}\n\n{self.hint.text}"})
        return [message.model_dump(mode="json", exclude_none=True) for message in (*before, hinted)]


def configured_questions(config: Config) -> list[InductionQuestion]:
    """The questions of `induction.seeds` and `induction.hints`.

    Raises:
        ConfigError: if a file is invalid; the message gives key, file, line, field and remedy.
    """
    induction = config.induction
    hints = [hint for _, hint in _lines("induction.hints", source_of(induction.hints, "induction_hints.jsonl"), Hint)]
    seeds = source_of(induction.seeds, "induction_seeds.jsonl")
    judged = config.evaluation.judge is not None
    return build_questions(_lines("induction.seeds", seeds, Seed), hints, judged=judged, source=str(seeds))


def build_questions(
    seeds: Sequence[tuple[int, Seed]], hints: Sequence[Hint], *, judged: bool, source: str
) -> list[InductionQuestion]:
    """All pairs of a seed (with its line number) and a matching hint, in a fixed order that mixes categories.

    Raises:
        ConfigError: if an id is not unique, no hint matches a seed, or bad answers to a seed cannot be detected.
    """
    categories = {hint.category for hint in hints}
    found: dict[str, list[InductionQuestion]] = {}
    for number, seed in seeds:
        where = f"induction.seeds: {source}, line {number}"
        if seed.id in found:
            raise ConfigError(f"{where}: id {seed.id!r} is used twice; make it unique")
        if seed.category is not None and seed.category not in categories:
            known = ", ".join(sorted(categories))
            raise ConfigError(
                f"{where}: category: no hint has category {seed.category!r}; choose one of {known}, "
                "or add a hint to induction.hints"
            )
        found[seed.id] = list(_questions_of(seed, hints, judged=judged))
        if not found[seed.id]:
            raise ConfigError(
                f"{where}: checks: a bad answer cannot be detected; add checks to the seed (with a category) or "
                "to a hint, or set evaluation.judge"
            )
    return sorted((question for of_seed in found.values() for question in of_seed), key=lambda one: one.key)


def _questions_of(seed: Seed, hints: Sequence[Hint], *, judged: bool) -> Iterator[InductionQuestion]:
    for hint in hints:
        checks = seed.rules or hint.checks
        if seed.category in {None, hint.category} and (checks is not None or judged):
            yield InductionQuestion(seed=seed, hint=hint, checks=checks)


def _lines(key: str, source: Traversable, model: type[Line]) -> list[tuple[int, Line]]:
    found = read_lines(key, source, model, what=model.__name__.lower())
    if not found:
        raise ConfigError(f"{key}: {source} has no lines; remove the key to use the set shipped with erratad")
    return found
