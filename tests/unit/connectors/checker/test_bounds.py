"""The limits of a report's rules."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.checker import bounds
from connectors.checker.bounds import pattern_excess, schema_excess, texts_excess


def nested(depth: int) -> dict[str, Any]:
    return {"not": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"allOf": [{}] * 1000}, "objects and lists"),
        ({"anyOf": [{"oneOf": [{}] * 50}] * 20}, "objects and lists"),
        ({"required": [str(number) for number in range(6000)]}, "values"),
        ({"const": list(range(6000))}, "values"),
        ({"title": "x" * 70_000}, "characters"),
        ({"x" * 70_000: 1}, "characters"),
        ({"const": [10**4000] * 20}, "characters"),
        ({"allOf": [{"$ref": "#"}] * 51}, "references"),
        ({"allOf": [{"$dynamicRef": "#"}] * 51}, "references"),
        ({"items": {"enum": list(range(1001))}}, "values of enum"),
        ({"allOf": [{"pattern": "a"}] * 21}, "patterns"),
        ({"patternProperties": {f"a{number}": {} for number in range(21)}}, "patterns"),
        (nested(32), "deeper than 32"),
        ({"items": {"pattern": "a" * 1001}}, "1001 characters"),
        ({"patternProperties": {"a" * 1001: {}}}, "1001 characters"),
    ],
)
def test_a_schema_beyond_a_limit_is_named_with_the_limit(schema: dict[str, Any], what: str) -> None:
    assert what in str(schema_excess(schema))


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"properties": {f"field{number}": {"type": "string", "pattern": "^a"} for number in range(20)}},
        {"properties": {f"field{number}": {"type": ["string", "null"]} for number in range(200)}},
        {"enum": [f"country {number}" for number in range(250)]},
        {"properties": {"pattern": {"type": "string"}, "enum": {"type": "array"}, "$ref": {}}},
        nested(31),
    ],
)
def test_a_usual_schema_is_within_the_limits(schema: Any) -> None:
    assert schema_excess(schema) is None


def test_texts_and_patterns_have_limits() -> None:
    assert texts_excess(["x"] * bounds.MAX_TEXTS) is None
    assert texts_excess(["x"] * (bounds.MAX_TEXTS + 1)) == "has 201 texts; at most 200 are taken"
    assert texts_excess(["x" * 15_000] * 2) == "has 30000 characters; at most 20000 are taken"
    assert pattern_excess("x" * 1000) is None
    assert pattern_excess("x" * 1001) == "has 1001 characters; at most 1000 are taken"
