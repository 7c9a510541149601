"""What pydantic says about a value, as a sentence for whoever sent it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Problem = Mapping[str, Any]
"""One of `ValidationError.errors()`."""


def sentences(problems: Iterable[Problem], *, whole: str) -> list[str]:
    """Each with the field before it, such as "checks.regex: is not a regular expression".

    Args:
        whole: Stands for the field where the value as a whole is wrong.
    """
    return [f"{'.'.join(str(part) for part in one['loc']) or whole}: {sentence(one)}" for one in problems]


def sentence(problem: Problem) -> str:
    """Without the field. pydantic counts "items" of a text, and begins what our validators say with "Value error"."""
    said, context, given = str(problem["msg"]), problem.get("ctx", {}), problem.get("input")
    match problem["type"]:
        case "value_error":
            said = said.removeprefix("Value error, ")
        case "extra_forbidden":
            said = "unknown; remove it, or correct its name"
        case "json_invalid":
            said = f"not JSON: {context.get('error', said)}"
        case "model_attributes_type" | "model_type" | "dict_type":
            said = "must be an object with named fields"
        case "too_short" if isinstance(given, str):
            least = context["min_length"]
            said = f"must have at least {least} character{'s' * (least > 1)}, and has {len(given)}"
        case "too_long" if isinstance(given, str):
            said = f"must have at most {context['max_length']} characters, and has {len(given)}"
    return said
