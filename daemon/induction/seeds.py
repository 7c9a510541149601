"""Questions that ask for mistakes: an instruction (seed) with a hint in it, and how a bad answer to it is known.

The hint is for asking only: what is stored, analysed and trained on is the instruction as it stood before.
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
    """One line of the seeds file: an instruction as a user might give it."""

    id: Identifier
    prompt: Text = Field(min_length=1)
    system: Text | None = Field(default=None, min_length=1)
    category: Category | None = None
    """Only hints of this category are put into it; None: every hint whose mistake can be told."""
    checks: Checks | None = None
    """What a good answer meets."""
    refuse: bool = False
    """A good answer declines, or at least warns, at its beginning."""

    @model_validator(mode="after")
    def _rules_have_a_category(self) -> Self:
        if self.checks is not None and self.refuse:
            raise ValueError("checks and refuse exclude each other; keep one")
        if self.category is None and (self.checks is not None or self.refuse):
            raise ValueError("needs a category beside checks or refuse: it says which hints' mistakes they show")
        return self

    @property
    def rules(self) -> Checks | None:
        return Checks(regex=DECLINES) if self.refuse else self.checks

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        user = ChatMessage(role="user", content=self.prompt)
        return (user,) if self.system is None else (ChatMessage(role="system", content=self.system), user)


class Hint(Wire):
    """One line of the hints file: words that make a model err, and what the answers are reported for."""

    text: Text = Field(min_length=1)
    category: Category
    reason: Text = Field(min_length=1, max_length=4000)
    checks: Checks | None = None
    """What a good answer to any instruction meets, where the mistake does not hang on the instruction."""

    @model_validator(mode="after")
    def _category_is_known(self) -> Self:
        if kind_of(self.category) is Kind.DEFAULT:
            known = ", ".join(kind for kind in Kind if kind is not Kind.DEFAULT)
            raise ValueError(f"category {self.category!r} is of no known kind; choose one of {known}, or their aliases")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One seed with one hint. `checks` None: the judge tells a bad answer."""

    seed: Seed
    hint: Hint
    checks: Checks | None

    @property
    def key(self) -> bytes:
        return hashlib.sha256(f"{self.seed.id}\n{self.hint.text}".encode()).digest()

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The messages with the hint at the end of the last one, where a model heeds it most."""
        *before, last = self.seed.messages
        hinted = last.model_copy(update={"content": f"{last.content}\n\n{self.hint.text}"})
        return [message.model_dump(mode="json", exclude_none=True) for message in (*before, hinted)]


def configured_questions(config: Config) -> list[Question]:
    """The questions of `induction.seeds` and `induction.hints`.

    Raises:
        ConfigError: naming the key, the file, the line, the field and what to do.
    """
    induction = config.induction
    hints = [hint for _, hint in _lines("induction.hints", source_of(induction.hints, "induction_hints.jsonl"), Hint)]
    seeds = source_of(induction.seeds, "induction_seeds.jsonl")
    judged = config.evaluation.judge is not None
    return questions(_lines("induction.seeds", seeds, Seed), hints, judged=judged, source=str(seeds))


def questions(seeds: Sequence[tuple[int, Seed]], hints: Sequence[Hint], *, judged: bool, source: str) -> list[Question]:
    """Every seed (with its line number) with every hint that fits, in a fixed order that mixes categories.

    Raises:
        ConfigError: when nothing could tell a bad answer to some seed.
    """
    categories = {hint.category for hint in hints}
    found: dict[str, list[Question]] = {}
    for number, seed in seeds:
        where = f"induction.seeds: {source}, line {number}"
        if seed.id in found:
            raise ConfigError(f"{where}: id {seed.id!r} stands twice; make it unique")
        if seed.category is not None and seed.category not in categories:
            known = ", ".join(sorted(categories))
            raise ConfigError(
                f"{where}: category: no hint is of {seed.category!r}; choose one of {known}, "
                "or add a hint to induction.hints"
            )
        found[seed.id] = list(_of(seed, hints, judged=judged))
        if not found[seed.id]:
            raise ConfigError(
                f"{where}: checks: nothing tells a bad answer; give the seed (with a category) or a hint checks, "
                "or set evaluation.judge"
            )
    return sorted((question for of_seed in found.values() for question in of_seed), key=lambda one: one.key)


def _of(seed: Seed, hints: Sequence[Hint], *, judged: bool) -> Iterator[Question]:
    for hint in hints:
        checks = seed.rules or hint.checks
        if seed.category in {None, hint.category} and (checks is not None or judged):
            yield Question(seed=seed, hint=hint, checks=checks)


def _lines(key: str, source: Traversable, model: type[Line]) -> list[tuple[int, Line]]:
    found = read_lines(key, source, model, what=model.__name__.lower())
    if not found:
        raise ConfigError(f"{key}: {source} holds no lines; leave the key out for the set shipped with erratad")
    return found
