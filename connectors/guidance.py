"""Method step 4: a reminder (the guidance) is added to every request under the alias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SYSTEM_ROLES = frozenset({"system", "developer"})
_TEXT_PARTS = frozenset({"text", "input_text"})
_RESPONSES_PARTS = frozenset({"input_image", "input_file"})
"""Parts of the Responses API, which names its text parts otherwise than chat completions do."""


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


def fold_system(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages for a template without a system role: leading system messages move into the first user message.

    They stand before the user's text, with an empty line between. Without a user message next, they become one.
    """
    count = next((at for at, one in enumerate(messages) if one.get("role") not in SYSTEM_ROLES), len(messages))
    lead, rest = messages[:count], [dict(message) for message in messages[count:]]
    if not lead:
        return rest
    texts = [text for message in lead if (text := _text(message.get("content")))]
    if not texts:
        return rest
    if rest and rest[0].get("role") == "user":
        rest[0]["content"] = _above(rest[0].get("content"), "\n\n".join(texts))
        return rest
    return [{"role": "user", "content": "\n\n".join(texts)}, *rest]


def _above(content: Any, lead: str) -> Any:
    """The content of a user message (text, list of parts, or nothing) with the lead before its first text."""
    if not isinstance(content, list):
        return f"{lead}\n\n{content}" if content else lead
    for at, part in enumerate(content):
        if isinstance(part, dict) and part.get("type") in _TEXT_PARTS:
            return [*content[:at], {**part, "text": f"{lead}\n\n{part.get('text') or ''}"}, *content[at + 1 :]]
    of_responses = any(isinstance(part, dict) and part.get("type") in _RESPONSES_PARTS for part in content)
    return [{"type": "input_text" if of_responses else "text", "text": lead}, *content]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part if isinstance(part, str) else str(part.get("text") or "") for part in content)
    return content or ""
