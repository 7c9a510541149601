"""Compares a report with the server's own record of the exchange. Pure.

Tolerated differences: white space; one text or several text parts; thoughts before the answer; ids and the layout of
the arguments of tool calls; and fields of a message beside its role, text and tool calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from connectors.guidance import SYSTEM_ROLES
from connectors.messages import ChatMessage, FlaggedResponse
from connectors.vllm_wire import Exchange
from daemon.chat.preparation import Preparation

MIN_PARTIAL_SHARE = 0.8
"""Of a cut-off answer, a client may have received a little less than the server sent: at least this share of it."""

Clean = Callable[[FlaggedResponse], FlaggedResponse]
Turn = tuple[str, str, str]
"""Role, text and tool calls of a message, in a form to compare."""


class Match(StrEnum):
    """What one exchange says about a report; the first that any exchange gives counts, in this order."""

    SAME = "same"
    UNKNOWN = "unknown"
    """It proves nothing: the client forced the answer, or the report leaves out the system message."""
    OTHER_CONVERSATION = "the exchange holds another conversation"
    OTHER_ANSWER = "the exchange holds another answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    match: Match
    generation: str


def verify(
    report: FlaggedResponse, exchanges: Iterable[Exchange], preparation: Preparation, *, clean: Clean = lambda it: it
) -> Verification | None:
    """What the exchanges with the report's completion id say; None: there are none.

    Several exchanges may have one id, because clients can choose it; one that holds the report is enough.

    Args:
        clean: What intake does to a report: personal data become placeholders. The servers remember what was said.
    """
    found = [
        Verification(match=_match(report, one, preparation, clean), generation=one.generation) for one in exchanges
    ]
    return min(found, key=lambda one: list(Match).index(one.match), default=None)


def _match(report: FlaggedResponse, exchange: Exchange, preparation: Preparation, clean: Clean) -> Match:
    try:
        asked = asked_in(exchange.request)
    except (ValidationError, ValueError, TypeError, AttributeError):
        asked = []
    found = Match.OTHER_ANSWER
    for held in _as_reported(report, asked, exchange, preparation, clean):
        if not _same_answer(report, held, exchange, preparation):
            continue
        found = Match.OTHER_CONVERSATION
        if exchange.forced or not asked:
            return Match.UNKNOWN
        if _turns(held.messages) == _turns(report.messages):
            return Match.SAME if len(held.messages) == len(asked) else Match.UNKNOWN
    return found


def _as_reported(
    report: FlaggedResponse, asked: Sequence[ChatMessage], exchange: Exchange, preparation: Preparation, clean: Clean
) -> Iterator[FlaggedResponse]:
    """The exchange in the form of a report: each choice, with all messages and without the system message, cleaned."""
    for said in exchange.choices:
        text = said.text if said.reasoning else preparation.split(said.text, opened=True).answer
        calls = [dict(call) for call in said.tool_calls] or None
        for messages in (list(asked), _without_system(asked)):
            told = {"messages": messages, "response": text, "tool_calls": calls}
            unsaid: Mapping[str, Any] = {
                "reason": "",
                "follow_up": None,
                "correction": None,
                "checks": None,
                "metadata": {},
            }
            held = report.model_copy(update={**told, **unsaid})
            yield held
            with suppress(ValidationError):  # a conversation that is no report is none after cleaning, either
                yield clean(held)


def _same_answer(report: FlaggedResponse, held: FlaggedResponse, exchange: Exchange, preparation: Preparation) -> bool:
    told, kept = _plain(preparation.split(report.response, opened=True).answer), _plain(held.response)
    if _calls(report.tool_calls or ()) != _calls(held.tool_calls or ()):
        return False
    nearly = exchange.partial and kept.startswith(told) and len(told) >= MIN_PARTIAL_SHARE * len(kept) > 0
    return told == kept or nearly


def asked_in(request: Mapping[str, Any]) -> list[ChatMessage]:
    """The conversation of a request to chat completions or to the Responses API."""
    if "messages" in request:
        return [ChatMessage.model_validate(message) for message in request["messages"]]
    given = request.get("input", [])
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    instructions = request.get("instructions")
    lead = [{"role": "system", "content": instructions}] if instructions else []
    return [ChatMessage.model_validate(_message(item)) for item in (*lead, *items)]


def _message(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """An item of the Responses API's input as a message."""
    kind = item.get("type", "message")
    if kind == "function_call":
        call = {"type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
        return {"role": "assistant", "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "content": item["output"], "tool_call_id": item.get("call_id")}
    if kind != "message":
        raise ValueError(f"an input of type {kind!r} is no message")
    return item


def _turns(messages: Sequence[ChatMessage]) -> list[Turn]:
    return [(message.role, _plain(message.text), _calls(message.tool_calls or ())) for message in messages]


def _without_system(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    lead = next((place for place, one in enumerate(messages) if one.role not in SYSTEM_ROLES), len(messages))
    return list(messages[lead:])


def _calls(calls: Iterable[Mapping[str, Any]]) -> str:
    """Names and arguments of tool calls, whatever their ids and the layout of the arguments."""
    return json.dumps([_call(call) for call in calls], sort_keys=True)


def _call(call: Mapping[str, Any]) -> list[Any]:
    function = call.get("function", call)
    arguments = function.get("arguments") if isinstance(function, dict) else None
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        parsed = arguments
    return [function.get("name") if isinstance(function, dict) else str(function), parsed]


def _plain(text: str) -> str:
    return " ".join(text.split())
