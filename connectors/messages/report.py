"""The wire schema of a flagged response, version 1. `decoding.decode` reads one from bytes."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    JsonValue,
    computed_field,
    field_validator,
    model_validator,
)

from connectors.messages import shapes
from connectors.messages.checks import Checks
from connectors.messages.fields import FreeJson, Identifier, Name, Text, Wire, storable_json
from connectors.messages.short import AWAITED

WIRE_VERSION = 1

_ROLES = r"^\s*[A-Za-z][A-Za-z0-9_-]{0,63}\s*$"
_HAS_A_LETTER = r"[^\s!-/:-@\[-`{-~]"
_SEVERITIES = r"^\s*([Ll][Oo][Ww]|[Mm][Ee][Dd][Ii][Uu][Mm]|[Hh][Ii][Gg][Hh])\s*$"
_ARTICLES = {"image": "an image", "audio": "a sound", "video": "a video", "file": "a file", "refusal": "a refusal part"}
EMPTY_ANSWER = "(the answer is empty)"


class Severity(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Rating(StrEnum):
    UP = "up"
    DOWN = "down"


class ChatMessage(Wire):
    """One message of the conversation, as clients of OpenAI and vLLM give it back. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    role: Annotated[
        str,
        Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$"),
        BeforeValidator(shapes.word, json_schema_input_type=Annotated[str, Field(pattern=_ROLES)]),
    ] = Field(description="system, developer, user, assistant, tool, function, or a role of the model's own template.")
    content: Annotated[
        str | list[dict[str, JsonValue]],
        AfterValidator(storable_json),
        BeforeValidator(shapes.content, json_schema_input_type=str | list[str | dict[str, JsonValue]] | None),
    ] = Field(default="", description="A text, or parts. A part that is no text is kept as a placeholder.")
    name: Text | None = None
    tool_calls: Annotated[list[dict[Text, FreeJson]] | None, FailFast()] = None
    tool_call_id: Text | None = None
    function_call: dict[Text, FreeJson] | None = None
    reasoning: Text | None = Field(
        default=None, description="The thoughts before the answer; also `reasoning_content`."
    )
    refusal: Text | None = None
    audio: Annotated[
        Text | None, BeforeValidator(shapes.audio, json_schema_input_type=dict[str, JsonValue] | str | None)
    ] = Field(default=None, description="Only a placeholder is kept.")

    @model_validator(mode="before")
    @classmethod
    def _as_given_back(cls, value: Any) -> Any:
        return shapes.message(value)

    @property
    def text(self) -> str:
        """The content as one text. A placeholder stands for each part that is no text."""
        return shapes.text_of(self.content)

    @property
    def shown(self) -> str:
        """The whole message for people and for the analyst: text, refusal, sound and calls."""
        refusal = "" if self.refusal is None else shapes.refused(self.refusal)
        calls = shapes.calls_text([*(self.tool_calls or ()), *([self.function_call] if self.function_call else ())])
        return "\n".join(filter(None, (self.text, refusal, self.audio, calls)))

    @property
    def foreign(self) -> str | None:
        """The kind of the first part that is no text, such as 'image'; None: all is text."""
        kinds = shapes.foreign_parts(self.content)
        if self.refusal is not None:
            kinds.append("refusal")
        return next(iter(kinds), None if self.audio is None else "audio")

    def turn(self) -> dict[str, Any]:
        """The message for chat templates, with the fields that vLLM hands to them."""
        kept = self.model_dump(include={"role", "name", "tool_call_id"}, exclude_none=True)
        # two names for the thoughts: templates read one or the other
        more = {"tool_calls": self.tool_calls, "reasoning": self.reasoning, "reasoning_content": self.reasoning}
        return {**kept, "content": self.text, **{name: value for name, value in more.items() if value}}

    def canonical(self) -> dict[str, Any]:
        """The message for hashes: parts equal one text, and an absent field of a later version changes nothing."""
        given = {name: getattr(self, name) for name in _LATER}
        return {
            "role": self.role,
            "content": self.text,
            "name": self.name,
            "tool_calls": self.tool_calls,
            "tool_call_id": self.tool_call_id,
            **{name: one for name, one in given.items() if one is not None},
        }


_LATER = ("function_call", "reasoning", "refusal", "audio")
"""Fields of a message that came after the first version."""


def _a_time(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | datetime | int | float):
        raise ValueError("must be a text such as 2026-01-31T12:00:00Z, or Unix time")  # noqa: TRY004 - pydantic
    return value


class FlaggedResponse(Wire):
    """One response that a user flagged as bad (wire schema, version 1).

    Fields that are not known are kept in `metadata`; null is the same as absent. The module `shapes` says in which
    other shapes a report is taken.
    """

    model_config = ConfigDict(extra="ignore")

    version: Literal[1] = Field(description="Version of this schema.")
    id: Annotated[Identifier, BeforeValidator(shapes.number_as_text, json_schema_input_type=Identifier | int)] = Field(
        description="Idempotency key: the same id is stored once, however often it is sent."
    )
    occurred_at: Annotated[datetime, BeforeValidator(_a_time, json_schema_input_type=datetime | float)] = Field(
        description="When the response was flagged: RFC 3339 with a time zone, or Unix time in s or ms."
    )
    model: Text = Field(max_length=200, description="The `model` field of the flagged answer: names the generation.")
    messages: Annotated[list[ChatMessage], FailFast()] = Field(
        min_length=1, description="The conversation up to the flagged answer."
    )
    response: Annotated[
        Text,
        BeforeValidator(shapes.joined, json_schema_input_type=str | list[str | dict[str, JsonValue]] | ChatMessage),
    ] = Field(description="The flagged answer, verbatim: a text, text parts, or the whole message. Empty: no answer.")
    tool_calls: Annotated[list[dict[Text, FreeJson]] | None, FailFast()] = Field(
        default=None, description="The tool calls of the flagged answer, in OpenAI's format."
    )
    completion_id: Annotated[
        Annotated[Text, Field(max_length=200)] | None,
        BeforeValidator(
            shapes.completion_id, json_schema_input_type=Annotated[str, Field(max_length=200)] | int | None
        ),
    ] = Field(
        default=None,
        description="The `id` of the completion that held the flagged answer; also `response_id` or `generation_id`. "
        "The server's own record of it verifies the report.",
    )
    rating: Annotated[Rating | None, BeforeValidator(shapes.rating, json_schema_input_type=JsonValue)] = Field(
        default=None,
        description="up or down; also thumbs_up, like, 1 and their opposites. Up makes no report: the gate asks the "
        "question again. Anything else stays in the metadata.",
    )
    reason: Annotated[
        Text,
        Field(max_length=4000),
        BeforeValidator(shapes.blank_as_empty, json_schema_input_type=Annotated[str, Field(max_length=4000)] | None),
    ] = Field(default="", description="What is wrong, in the user's words. Blank: no reason was given.")
    follow_up: Annotated[
        Annotated[Text, Field(max_length=4000)] | None,
        BeforeValidator(
            shapes.follow_up,
            json_schema_input_type=Annotated[str, Field(max_length=4000)]
            | list[str | dict[str, JsonValue]]
            | ChatMessage
            | None,
        ),
    ] = Field(
        default=None,
        description="The user's next message after the flagged answer, such as 'No, I asked for the capital': "
        "a text, text parts, or the whole message. Blank: absent.",
    )
    category: Annotated[
        Annotated[Text, Field(min_length=1, max_length=64)] | None,
        BeforeValidator(
            shapes.category, json_schema_input_type=Annotated[str, Field(pattern=rf"^\s*$|{_HAS_A_LETTER}")] | None
        ),
    ] = Field(
        default=None,
        description="Kind of mistake, such as 'harmful', 'prompt-injection', 'wrong-fact', 'format'; "
        "'Wrong Fact' is taken as 'wrong-fact'. Blank or absent: erratad guesses the kind, and says so.",
    )
    severity: Annotated[
        Severity,
        BeforeValidator(shapes.word, json_schema_input_type=Annotated[str, Field(pattern=_SEVERITIES)]),
    ] = Severity.MEDIUM
    correction: Annotated[Text | None, BeforeValidator(shapes.blank_as_none)] = Field(
        default=None, description="What the answer should have been. Blank: absent."
    )
    checks: Checks | None = Field(default=None, description="Rules that a good answer meets.")
    reporter: Name = Field(
        description="Who flagged it: a pseudonym, an e-mail address or a number; caps apply per reporter."
    )
    tenant: Annotated[Name | None, BeforeValidator(shapes.blank_as_none)] = None
    locale: Annotated[Text, Field(max_length=35)] | None = None
    metadata: dict[Text, FreeJson] = Field(default={}, description="Anything else; stored, never interpreted.")

    @computed_field(description="Why it can never be trained on here; None: it can.")  # type: ignore[prop-decorator]
    @property
    def not_trainable(self) -> str | None:
        """Stored with the report, so that the database can leave it out."""
        found = ((number, message.foreign) for number, message in enumerate(self.messages, 1))
        return next((f"message {number} holds {_ARTICLES.get(kind, kind)}" for number, kind in found if kind), None)

    @model_validator(mode="before")
    @classmethod
    def _as_reported(cls, value: Any) -> Any:
        return shapes.report(value, frozenset(cls.model_fields), frozenset(Checks.model_fields))

    @field_validator("occurred_at")
    @classmethod
    def _has_time_zone(cls, value: datetime) -> datetime:
        if value.tzinfo is None:
            raise ValueError("needs a time zone, e.g. 2026-01-31T12:00:00Z")
        try:
            return value.astimezone(UTC)
        except OverflowError as exc:
            raise ValueError("is outside of the years 1 to 9999 in UTC") from exc

    @field_validator("messages")
    @classmethod
    def _ends_before_the_answer(cls, value: list[ChatMessage]) -> list[ChatMessage]:
        if value[-1].role == "assistant":
            raise ValueError(
                "must end with the user's (or a tool's) message; the flagged answer goes into 'response', "
                "and the last message is another answer"
            )
        return value

    @property
    def is_awaited(self) -> bool:
        """Whether it came in the short form, and the servers' record of the completion was not read yet."""
        return self.model == AWAITED and self.completion_id is not None

    @property
    def answered(self) -> bool:
        """False if the flagged answer is empty or blank, without a tool call."""
        return bool(self.tool_calls) or not shapes.is_blank(self.response)

    @property
    def complaint(self) -> str | None:
        """The reason and the user's next message, each if there is one; None: neither."""
        return "\n".join(filter(None, (self.reason, self.follow_up))) or None

    def answer_turn(self) -> dict[str, Any]:
        """The flagged answer for chat templates."""
        return ChatMessage(role="assistant", content=self.response, tool_calls=self.tool_calls).turn()

    @property
    def shown_response(self) -> str:
        """The flagged answer for people and for the analyst: its text and its tool calls."""
        calls = shapes.calls_text(self.tool_calls or [])
        said = "" if shapes.is_blank(self.response) else self.response
        return "\n".join(filter(None, (said, calls))) or EMPTY_ANSWER

    def fingerprint(self) -> str:
        """SHA-256 of everything but the id: tells a redelivery from another report that reuses the id.

        The completion's id, the follow-up, rating, comment and edit are hashed as parts of the metadata, where they
        were kept before they were fields.
        """
        metadata = shapes.with_completion_id(self.metadata, self.completion_id)
        if self.follow_up is not None:
            metadata = {"follow_up": self.follow_up, **metadata}
        values = self.model_dump(mode="json", include=_HASHED)
        if self.reason and self.reason == metadata.get("comment"):
            values["reason"] = ""
        if self.correction is not None and self.correction == metadata.get("edit"):
            values["correction"] = None
        return _sha256({**values, "metadata": metadata, **self._exchange()})

    def content_key(self) -> str:
        """SHA-256 of conversation and response: equal for two reports of the same answer."""
        return _sha256(self._exchange())

    def _exchange(self) -> dict[str, Any]:
        messages = [message.canonical() for message in self.messages]
        calls = {"tool_calls": self.tool_calls} if self.tool_calls else {}
        return {"messages": messages, "response": self.response, **calls}

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


_HASHED = {
    *("version", "occurred_at", "model", "response", "reason", "category", "severity", "correction", "checks"),
    *("reporter", "tenant", "locale"),
}
_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def _sha256(value: object) -> str:
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()
