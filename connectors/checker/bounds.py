"""How large the rules of one report may be. Cheap to decide, so it is decided before a rule is compiled or used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_TEXTS = 200
"""Texts of `must_contain` and of `must_not_contain` together."""
MAX_TEXT_CHARS = 20_000
"""Characters of these texts together."""
MAX_PATTERN_CHARS = 1000
MAX_SCHEMA_CHARS = 65_536
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_OBJECTS = 500
"""Objects and lists in one schema: each subschema is at least one."""
MAX_SCHEMA_VALUES = 5000
MAX_REFERENCES = 50
MAX_ENUM_VALUES = 1000
MAX_SCHEMA_PATTERNS = 20
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})


def texts_excess(texts: Sequence[str]) -> str | None:
    """Why these texts are too much for one report; None: they are not."""
    if len(texts) > MAX_TEXTS:
        return f"has {len(texts)} texts; at most {MAX_TEXTS} are taken"
    chars = sum(map(len, texts))
    return f"has {chars} characters; at most {MAX_TEXT_CHARS} are taken" if chars > MAX_TEXT_CHARS else None


def pattern_excess(pattern: str) -> str | None:
    """Why a pattern is too long; None: it is not."""
    if len(pattern) > MAX_PATTERN_CHARS:
        return f"has {len(pattern)} characters; at most {MAX_PATTERN_CHARS} are taken"
    return None


def schema_excess(schema: Any) -> str | None:
    """Why a JSON Schema is too large; None: it is not. Reads no more of it than the limits allow."""
    most = {
        "values": MAX_SCHEMA_VALUES,
        "objects and lists": MAX_SCHEMA_OBJECTS,
        "characters": MAX_SCHEMA_CHARS,
        "references": MAX_REFERENCES,
        "values of enum": MAX_ENUM_VALUES,
        "patterns": MAX_SCHEMA_PATTERNS,
    }
    counts = dict.fromkeys(most, 0)
    parts = [(schema, 1)]
    while parts:
        part, depth = parts.pop()
        if depth > MAX_SCHEMA_DEPTH:
            return f"is nested deeper than {MAX_SCHEMA_DEPTH} levels; flatten it"
        for what, count in _counted(part):
            counts[what] += count
            if counts[what] > most[what]:
                return f"has more than {most[what]} {what}; simplify it"
        inner = part.values() if isinstance(part, Mapping) else part if isinstance(part, list) else ()
        parts += [(one, depth + 1) for one in inner]
    return next(filter(None, map(pattern_excess, _patterns(schema))), None)


def _counted(part: Any) -> Iterator[tuple[str, int]]:
    yield "values", 1
    if isinstance(part, str):
        yield "characters", len(part)
    elif isinstance(part, int | float):
        yield "characters", len(str(part))
    elif isinstance(part, list):
        yield "objects and lists", 1
        yield "values", len(part)
    elif isinstance(part, Mapping):
        yield "objects and lists", 1
        yield "values", len(part)
        yield "characters", sum(map(len, part))
        yield "references", len(_REFERENCES & part.keys())
        yield "values of enum", len(part["enum"]) if isinstance(part.get("enum"), list) else 0
        yield "patterns", len(_own_patterns(part))


def _own_patterns(part: Mapping[str, Any]) -> list[str]:
    further = part.get("patternProperties")
    own = part.get("pattern")
    return [*([own] if isinstance(own, str) else ()), *(further if isinstance(further, Mapping) else ())]


def _patterns(schema: Any) -> Iterator[str]:
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            yield from _own_patterns(part)
            parts += part.values()
        elif isinstance(part, list):
            parts += part
