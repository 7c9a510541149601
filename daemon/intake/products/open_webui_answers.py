"""An answer as Open WebUI keeps it: its text without the thoughts, and the calls of tools as messages of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daemon.intake.formats.cells import LeftOutError, RowError
from daemon.intake.products.fields import Item, at

_OPEN, _CLOSE = '<details type="reasoning"', "</details>"
_OTHER = '<details type="'
TOOLS = "the conversation has tool calls in a form that Open WebUI no longer writes, without their arguments"


def spoken(turn: Item) -> list[dict[str, Any]]:
    """The turn as messages; the last one is of the assistant. Several, if the model called tools.

    Raises:
        LeftOutError: it has calls of tools that cannot be read.
        RowError: names the wrong field.
    """
    output = at(turn, "output", list)
    if not output:
        return [{"role": "assistant", "content": without_thoughts(at(turn, "content", str) or "")}]
    turns: list[dict[str, Any]] = [_empty()]
    for number, part in enumerate(output):
        if not isinstance(part, Mapping):
            raise RowError(f"output.{number}", "must be an object")
        _take(turns, part)
    return turns if turns[-1]["role"] == "assistant" else [*turns, _empty()]


def _empty() -> dict[str, Any]:
    return {"role": "assistant", "content": ""}


def _take(turns: list[dict[str, Any]], part: Item) -> None:
    kind = part.get("type")
    if kind == "function_call_output":
        said = _text(part, "output")
        turns.append({"role": "tool", "tool_call_id": at(part, "call_id", str) or "", "content": said})
        return
    if kind not in {"message", "function_call"}:
        return  # thoughts, and what the interface shows
    if turns[-1]["role"] == "tool":
        turns.append(_empty())
    last = turns[-1]
    if kind == "message":
        last["content"] = "\n".join(filter(None, (last["content"], _text(part, "content"))))
    else:
        function = {"name": at(part, "name", str) or "", "arguments": at(part, "arguments", str) or ""}
        call = {"id": at(part, "call_id", str) or "", "type": "function", "function": function}
        last.setdefault("tool_calls", []).append(call)


def _text(part: Item, name: str) -> str:
    """The texts of a part. What a tool gave back can be a text itself."""
    given = part.get(name)
    if isinstance(given, str):
        return given
    texts = [one.get("text") for one in at(part, name, list) or () if isinstance(one, Mapping)]
    return "".join(one for one in texts if isinstance(one, str))


def without_thoughts(text: str) -> str:
    """The text without the blocks that hold thoughts.

    Raises:
        LeftOutError: it has a block of another kind: a call of a tool.
    """
    parts, start = [], 0
    while (found := text.find(_OPEN, start)) >= 0 and (end := text.find(_CLOSE, found)) >= 0:
        parts.append(text[start:found])
        start = end + len(_CLOSE)
    kept = "".join([*parts, text[start:]])
    if _OTHER in kept:
        raise LeftOutError(TOOLS)
    return kept.strip() if start else kept
