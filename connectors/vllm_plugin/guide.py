"""Adds the guidance to the bodies of requests, in the place that each protocol has for it."""

from __future__ import annotations

from typing import Any

from connectors.guidance import SYSTEM_ROLES, below, fold_system, with_guidance

Body = dict[str, Any]


def guided(path: str, body: Body, guidance: str, *, system_role: bool) -> Body:
    """The body with the guidance. Without a system role, it is folded with the system message into the first user turn.

    Unchanged: plain completions, which have no place for guidance, and what is no conversation or an empty one. vLLM
    refuses these as it does without the alias.
    """
    if path.startswith("/v1/responses"):
        if not isinstance(body.get("instructions"), str | None):
            return body
        if isinstance(text := body.get("input"), str) and not system_role:
            body = {**body, "input": [{"role": "user", "content": text}]}
        return _in_field(body, "instructions", "input", guidance, system_role=system_role)
    if path.startswith("/v1/messages"):
        return _in_field(body, "system", "messages", guidance, system_role=system_role)
    messages = body.get("messages")
    if path == "/v1/chat/completions/batch" and isinstance(messages, list):
        return {**body, "messages": [_conversation(one, guidance, system_role=system_role) for one in messages]}
    if "messages" in body:
        return {**body, "messages": _conversation(messages, guidance, system_role=system_role)}
    return body


def _in_field(body: Body, field: str, turns: str, guidance: str, *, system_role: bool) -> Body:
    """For protocols whose system message is a field beside the turns."""
    system: Any = body.get(field)
    given: Any = body.get(turns)
    if given == [] or not _readable(system):
        return body
    lead = below(system, guidance)
    if system_role:
        return {**body, field: lead}
    if not _guidable(given, system_role=False):
        return body
    return {**body, field: None, turns: fold_system([{"role": "system", "content": lead}, *given])}


def _conversation(messages: Any, guidance: str, *, system_role: bool) -> Any:
    if not messages or not _guidable(messages, system_role=system_role):
        return messages
    guided_messages = with_guidance(messages, guidance)
    return guided_messages if system_role else fold_system(guided_messages)


def _guidable(messages: Any, *, system_role: bool) -> bool:
    """Whether it is a list of messages, and the contents that would change can be read.

    Without a system role, system messages alone are no conversation: the guidance would become the user's question.
    """
    if not isinstance(messages, list):
        return False
    if not all(isinstance(one, dict) and isinstance(one.get("role"), str | None) for one in messages):
        return False
    lead = next((at for at, one in enumerate(messages) if one.get("role") not in SYSTEM_ROLES), len(messages))
    changed = messages[:lead] if system_role else messages[: lead + 1]
    return all(_readable(one.get("content")) for one in changed) and (system_role or lead < len(messages))


def _readable(content: Any) -> bool:
    if isinstance(content, list):
        return all(
            isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str | None))
            for part in content
        )
    return isinstance(content, str | None)
