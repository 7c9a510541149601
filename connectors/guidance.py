"""Method step 4: the reminder that is put before a request when it is answered under the alias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SYSTEM_ROLES = frozenset({"system", "developer"})


def with_guidance(messages: Sequence[Mapping[str, Any]], guidance: str) -> list[dict[str, Any]]:
    """The messages with `guidance` at the head of the system message (one is made where there is none).

    The same function serves the vLLM plugin (live requests) and the evaluation (the guided arm), so that what is
    measured is what is served.
    """
    copies = [dict(message) for message in messages]
    if not guidance:
        return copies
    if copies and copies[0].get("role") in SYSTEM_ROLES:
        content = copies[0].get("content") or ""
        if isinstance(content, str):
            copies[0]["content"] = f"{guidance}\n\n{content}" if content else guidance
        else:
            copies[0]["content"] = [{"type": "text", "text": guidance}, *content]
        return copies
    return [{"role": "system", "content": guidance}, *copies]
