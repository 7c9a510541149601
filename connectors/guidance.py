"""Method step 4: a reminder (the guidance) is added to every request under the alias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SYSTEM_ROLES = frozenset({"system", "developer"})


def with_guidance(messages: Sequence[Mapping[str, Any]], guidance: str) -> list[dict[str, Any]]:
    """The messages with `guidance` appended to the system message, which is created if missing.

    The end of the system message is right before the user's text. Guidance at its start made small models reveal
    secrets that the rest of the message told them to keep.

    The vLLM plugin (live requests) and the evaluation (guided arm) both call this function, so the gate measures the
    same prompts that users get.
    """
    copies = [dict(message) for message in messages]
    if not guidance:
        return copies
    if copies and copies[0].get("role") in SYSTEM_ROLES:
        copies[0]["content"] = below(copies[0].get("content"), guidance)
        return copies
    return [{"role": "system", "content": guidance}, *copies]


def below(system: Any, guidance: str) -> Any:
    """The content of a system message (text, list of parts, or nothing) with the guidance appended."""
    if isinstance(system, list):
        return [*system, {"type": "text", "text": guidance}]
    return f"{system}\n\n{guidance}" if system else guidance
