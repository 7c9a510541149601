"""The rules of a report for a good answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import FailFast, Field, JsonValue, field_validator

from connectors.checker import bounds, client
from connectors.messages.fields import FreeJson, Text, Wire


class Checks(Wire):
    """Rules for a good answer to the same conversation. An answer passes if it meets all given rules."""

    must_contain: Annotated[list[Text], FailFast()] = Field(
        default=[], description="Each text occurs in the answer (case-insensitive)."
    )
    must_not_contain: Annotated[list[Text], FailFast()] = Field(
        default=[], description="None of the texts occurs (case-insensitive)."
    )
    regex: Text | None = Field(default=None, max_length=1000, description="The pattern is found in the answer.")
    json_schema: dict[Text, FreeJson] | bool | None = Field(
        default=None, description="The answer is JSON that is valid under this schema."
    )
    max_words: int | None = Field(default=None, ge=1, description="The answer has at most this many words.")

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None and bounds.pattern_excess(value) is None:
            _refuse(client.pattern_fault(value))
        return value

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, value: dict[str, JsonValue] | bool | None) -> dict[str, JsonValue] | bool | None:  # noqa: FBT001
        if isinstance(value, dict) and bounds.schema_excess(value) is None:
            _refuse(client.schema_fault(value))
        return value

    @property
    def excess(self) -> str | None:
        """The first rule that is beyond the limits of `connectors.checker.bounds`; None: none is.

        `decode` refuses such a rule. In what was stored before, and in an operator's file, no answer meets it.
        """
        texts = bounds.texts_excess([*self.must_contain, *self.must_not_contain])
        schema = bounds.schema_excess(self.json_schema)
        found = (("must_contain and must_not_contain", texts), ("json_schema", schema))
        return next((f"checks.{field}: {fault}" for field, fault in found if fault), None)


def _refuse(fault: str | None) -> None:
    if fault is not None:
        raise ValueError(fault)
