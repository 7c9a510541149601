"""Values inside of an item, by path and type. The items are untrusted; fields that are not asked for are ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from daemon.adapter_names import is_generation
from daemon.intake.formats.cells import LeftOutError, RowError

Item = Mapping[str, Any]
T = TypeVar("T")
_KINDS: Mapping[type, str] = {str: "a text", int: "a whole number", dict: "an object", list: "a list"}
SHOWN_CHARACTERS = 60
SCORES = frozenset({"user-feedback", "user_feedback", "feedback", "thumbs", "user-thumbs", "user_thumbs"})
"""Names of scores that are a user's feedback, unless the caller names others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the operator or the caller says about the feedback of a product."""

    alias: str
    """The name under which erratad serves the model (`serving.alias`)."""
    models: frozenset[str] = frozenset()
    """Names under which the product knows that model."""
    scores: frozenset[str] = SCORES
    """Names of the scores that are feedback."""
    good_from: float | None = None
    """A score from this value on is a thumb up, a lower one a thumb down."""
    edits: bool = False
    """A changed answer is the user's better answer."""

    def served(self, *names: str | None) -> str:
        """The first of the names that is the model served here: the alias, a generation, or one of `models`.

        Raises:
            LeftOutError: none is.
        """
        for name in filter(None, names):
            if name == self.alias or is_generation(name, self.alias):
                return name
            if name in self.models:
                return self.alias
        shown = next(filter(None, names), "no name")[:SHOWN_CHARACTERS]
        raise LeftOutError(f"the answer is from another model than {self.alias}: {shown}")


def at(item: Any, path: str, kind: type[T]) -> T | None:
    """The value at a path such as `data.rating`; None if it, or a part of the path, is absent or null.

    Raises:
        RowError: it, or a part of the path, has another type.
    """
    found, seen = item, ""
    for part in path.split("."):
        if found is None:
            return None
        if not isinstance(found, Mapping):
            raise RowError(seen or "item", "must be an object")
        found = found.get(part)
        seen = f"{seen}.{part}" if seen else part
    if found is None:
        return None
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise RowError(path, f"must be {_KINDS[kind]}")
    return found


@contextmanager
def under(path: str) -> Iterator[None]:
    """Errors of the values inside name the path from the top of the item."""
    try:
        yield
    except RowError as exc:
        raise RowError(f"{path}.{exc.field}", exc.detail) from exc


def needed(item: Any, path: str, kind: type[T]) -> T:
    """The value at a path.

    Raises:
        RowError: it is absent, or has another type.
    """
    found = at(item, path, kind)
    if found is None:
        raise RowError(path, "is missing")
    return found
