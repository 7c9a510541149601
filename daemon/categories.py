"""The kinds of mistakes that erratad knows. Every category of the wire schema maps to one of them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Kind(StrEnum):
    """A group of categories with its own analysis template."""

    PROMPT_INJECTION = "prompt-injection"
    SECRET_LEAK = "secret-leak"  # noqa: S105 - a kind of mistake
    HARMFUL = "harmful"
    WRONG_FACT = "wrong-fact"
    FORMAT = "format"
    REFUSAL = "refusal"
    STYLE = "style"
    DEFAULT = "default"


REFUSAL_IS_RIGHT = frozenset({Kind.HARMFUL, Kind.SECRET_LEAK})
"""Kinds for which a good answer may be a refusal."""

_ALIASES: Mapping[Kind, frozenset[str]] = {
    Kind.PROMPT_INJECTION: frozenset({"injection", "goal-hijack", "goal-hijacking", "hijack", "hijacking"}),
    Kind.SECRET_LEAK: frozenset(
        {"leak", "leakage", "prompt-leak", "system-prompt-leak", "data-leak", "privacy", "pii"}
    ),
    Kind.HARMFUL: frozenset(
        {"harm", "unsafe", "safety", "jailbreak", "toxic", "toxicity", "hate", "violence", "illegal", "unethical"}
        | {"offensive", "self-harm", "sexual", "dangerous", "bias", "discrimination"}
    ),
    Kind.WRONG_FACT: frozenset(
        {"fact", "facts", "factual", "factuality", "wrong", "incorrect", "inaccurate", "hallucination", "math", "false"}
        | {"misinformation", "truthfulness", "reasoning", "arithmetic"}
    ),
    Kind.FORMAT: frozenset({"formatting", "instruction-following", "instructions", "instruction", "json", "length"}),
    Kind.REFUSAL: frozenset({"over-refusal", "overrefusal", "false-refusal", "refused", "exaggerated-safety"}),
    Kind.STYLE: frozenset({"tone", "verbosity", "verbose", "language", "grammar", "rude", "politeness", "clarity"}),
}
_KIND_OF = {alias: kind for kind, aliases in _ALIASES.items() for alias in (*aliases, kind.value)}


NOT_NAMED = "unknown"
"""Shown and stored as the category of a report that names none, until its kind is guessed."""


class CategorySource(StrEnum):
    """Where the category of a report comes from."""

    NAMED = "named"
    """Its sender names it."""
    GUESSED = "guessed"
    """The analyst guessed its kind. A guess is no evidence: it groups reports, and supports nothing."""
    UNKNOWN = "unknown"
    """Its sender names none, and nothing was guessed yet."""


def kind_of(category: str | None) -> Kind:
    """The kind of a category; `Kind.DEFAULT` for unknown categories, and for none."""
    if category is None:
        return Kind.DEFAULT
    return _KIND_OF.get(category.replace("_", "-"), Kind.DEFAULT)
