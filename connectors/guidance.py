"""Method step 4: the reminder that is put before a request when it is answered under the alias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SYSTEM_ROLES = frozenset({"system", "developer"})


def with_guidance(messages: Sequence[Mapping[str, Any]], guidance: str) -> list[dict[str, Any]]:
    """The messages with `guidance` at the end of the system message (one is made where there is none).

    There it stands right before what the user says: at the head it was found to make small models tell secrets that the
    rest of the message asks them to keep.

    The same function serves the vLLM plugin (live requests) and the evaluation (the guided arm), so that what is
    measured is what is served.
    """
    copies = [dict(message) for message in messages]
    if not guidance:
        return copies
    if copies and copies[0].get("role") in SYSTEM_ROLES:
        copies[0]["content"] = below(copies[0].get("content"), guidance)
        return copies
    return [{"role": "system", "content": guidance}, *copies]


def below(system: Any, guidance: str) -> Any:
    """The guidance below a system message's content: a text, a list of parts, or nothing."""
    if isinstance(system, list):
        return [*system, {"type": "text", "text": guidance}]
    return f"{system}\n\n{guidance}" if system else guidance
