"""The types of the fields, shared by reports, events and the lines of shipped files."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from connectors.messages import shapes

MAX_DEPTH = 32
"""Maximum nesting of free JSON (metadata, tool calls, schemas). Deeper values could not be stored or encoded again."""


MAX_VALUES = 100_000
"""Maximum number of JSON values in one message: each costs far more memory and time than its bytes."""


def values_in(value: Any, most: int = MAX_VALUES) -> int:
    """The number of JSON values, at any depth; counting ends soon after `most`."""
    count, parts = 1, [value]
    while parts and count <= most:
        part = parts.pop()
        inner = list(part.values()) if isinstance(part, dict) else part if isinstance(part, list) else []
        count += len(inner)
        if count <= most:
            parts += [one for one in inner if isinstance(one, dict | list)]
    return count


def storable(text: str) -> str:
    """The text with U+FFFD for NUL and "?" for lone surrogates: PostgreSQL stores neither."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _storable(text: str) -> str:
    if "\x00" not in text and text.isascii():
        return text
    if storable(text) != text:
        fault = "a NUL character" if "\x00" in text else "a lone surrogate"
        raise ValueError(f"contains {fault}, which PostgreSQL cannot store; remove it")
    return text


def storable_json(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The value. Raises ValueError for one that could not be stored or encoded again."""
    if depth < 0:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels; flatten it")
    if isinstance(value, str):
        _storable(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that is too large for JSON; send it as text")
    elif isinstance(value, list):
        for item in value:
            storable_json(item, depth - 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _storable(key)
            storable_json(item, depth - 1)
    return value


Text = Annotated[str, AfterValidator(_storable)]
FreeJson = Annotated[JsonValue, AfterValidator(storable_json)]
Identifier = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]*$")]
Name = Annotated[
    Text,
    Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$"),
    BeforeValidator(shapes.name, json_schema_input_type=Annotated[str, Field(min_length=1)] | int),
]
"""A person or a tenant: any text on one line."""


class Wire(BaseModel):
    """Base of every wire record: unknown fields are errors, and records are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)
