"""Feedback of Open WebUI: its export (`GET /api/v1/evaluations/feedbacks/all/export`), or single items of it.

An item has the user's thumb and, in `snapshot`, the whole chat, from which the conversation up to the answer is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.messages.shapes import is_blank, rating
from daemon.intake.formats.cells import LeftOutError, RowError
from daemon.intake.products.fields import Choices, Item, at, needed, under
from daemon.intake.products.open_webui_answers import spoken, without_thoughts

HISTORY = "snapshot.chat.chat.history.messages"
MAX_TURNS = 1000
NOTICE = (
    "a webhook of Open WebUI names the feedback and does not hold it; use the export or the function "
    "(docs/open-webui.md)"
)
CATEGORIES = {
    "not_factually_correct": "wrong-fact",
    "refused_when_it_shouldnt_have": "refusal",
    "dont_like_the_style": "style",
    "too_verbose": "style",
}
"""Buttons of Open WebUI that name a kind of mistake."""
WORDS = {
    "dont_like_the_style": "The user does not like the style",
    "too_verbose": "Too verbose",
    "not_helpful": "Not helpful",
    "not_factually_correct": "Not factually correct",
    "didnt_fully_follow_instructions": "Did not fully follow the instructions",
    "refused_when_it_shouldnt_have": "Refused, and should not have",
    "being_lazy": "Being lazy",
}
"""The buttons in words."""


def items(document: Any) -> list[Any]:
    """The items of an export, of a page of the list, or the single item."""
    if isinstance(document, Mapping) and isinstance(document.get("items"), list):
        return list(document["items"])
    return document if isinstance(document, list) else [document]


def message(item: Item, choices: Choices) -> dict[str, Any]:
    """The item as a message of the wire schema, without an id.

    Raises:
        LeftOutError: it says nothing about an answer of the model served here.
        RowError: names the field that is missing or wrong.
    """
    if isinstance(at(item, "event", object), str):
        raise LeftOutError(NOTICE)
    if (kind := needed(item, "type", str)) != "rating":
        raise LeftOutError(f"its type is {kind[:40]!r}, not 'rating'")
    thumb = rating(at(item, "data.rating", object))
    if at(item, "snapshot.chat", dict) is None:
        raise LeftOutError("it holds no conversation (snapshot); take the export, not the list")
    history, message_id = needed(item, HISTORY, dict), needed(item, "meta.message_id", str)
    answer = _answer(history, message_id)
    name = at(item, "data.model_id", str)
    base = (at(item, "meta.base_models", dict) or {}).get(name)
    model = choices.served(name, base if isinstance(base, str) else None)
    with under(f"{HISTORY}.{message_id}"):
        said = _judged(answer, thumb, choices)
    asked = [*_system(item), *_asked(history, answer)]
    return {
        "version": 1,
        "occurred_at": needed(item, "created_at", int),
        "model": model,
        "messages": [*asked, *said.pop("steps")],
        **said,
        **_reasons(item),
        "follow_up": _follow_up(history, answer),
        "reporter": at(item, "user_id", str) or "open-webui",
        "metadata": {
            "source": "open-webui",
            "feedback_id": needed(item, "id", str),
            "chat_id": at(item, "meta.chat_id", str),
            "message_id": message_id,
        },
    }


def _answer(history: Mapping[str, Any], message_id: str) -> Item:
    answer = history.get(message_id)
    if not isinstance(answer, Mapping):
        raise RowError("meta.message_id", f"names no message of {HISTORY}")
    if at(answer, "role", str) != "assistant":
        raise RowError("meta.message_id", "names no answer of the assistant")
    return answer


def _judged(answer: Item, thumb: str | None, choices: Choices) -> dict[str, Any]:
    """The model's answer, the calls of tools before it (`steps`), and the thumb.

    Where the answer was changed afterwards, by the user or by a filter, the model's own text is `originalContent`.
    """
    shown, own = at(answer, "content", str) or "", at(answer, "originalContent", str)
    changed = own is not None and own != shown
    if changed and choices.edits:
        better = without_thoughts(shown)
        return {"steps": [], "response": without_thoughts(own or ""), "correction": better}
    if thumb is None:
        raise LeftOutError("it has neither a thumb up nor a thumb down")
    if changed and thumb == "up":
        raise LeftOutError("a thumb up for an answer that was changed afterwards")
    turns = [{"content": without_thoughts(own or "")}] if changed else spoken(answer)
    *steps, last = turns
    calls = {"tool_calls": last["tool_calls"]} if "tool_calls" in last else {}
    return {"steps": steps, "response": last["content"], **calls, "rating": thumb}


def _system(item: Item) -> list[dict[str, Any]]:
    """The system message of the chat. That of the model or the user is not in an item."""
    system = at(item, "snapshot.chat.chat.params.system", str)
    return [{"role": "system", "content": system}] if system and not is_blank(system) else []


def _asked(history: Mapping[str, Any], answer: Item) -> list[dict[str, Any]]:
    """The conversation before the answer, from the answer up by `parentId`."""
    chain: dict[str, list[dict[str, Any]]] = {}
    above = at(answer, "parentId", str)
    while above is not None:
        turn = history.get(above)
        if not isinstance(turn, Mapping) or above in chain or len(chain) >= MAX_TURNS:
            raise RowError(HISTORY, f"the parent {above[:40]!r} is missing, stands in a circle or is too far up")
        with under(f"{HISTORY}.{above}"):
            chain[above] = _turn(turn)
            above = at(turn, "parentId", str)
    asked = [said for turns in reversed(chain.values()) for said in turns]
    if asked and answer.get("sources") and asked[-1]["role"] == "user":
        # Open WebUI put text of these into the request, and does not keep that text
        asked[-1] = _with_parts(asked[-1], [{"type": "file", "file": answer["sources"]}])
    return asked


def _turn(turn: Item) -> list[dict[str, Any]]:
    role = needed(turn, "role", str)
    if role == "assistant":
        return spoken(turn)
    plain = {"role": role, "content": at(turn, "content", str) or ""}
    files = at(turn, "files", list) or []
    parts = [{"type": "image" if _is_image(one) else "file", "file": one} for one in files]
    return [_with_parts(plain, parts) if parts else plain]


def _is_image(file: Any) -> bool:
    kind = file.get("type") if isinstance(file, Mapping) else None
    return isinstance(kind, str) and kind.startswith("image")


def _with_parts(turn: dict[str, Any], parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The turn with parts that are no text: such a report is shown, and no run trains on it."""
    given = turn["content"]
    texts = given if isinstance(given, list) else [{"type": "text", "text": given}]
    return {**turn, "content": [*texts, *parts]}


def _reasons(item: Item) -> dict[str, Any]:
    """The user's words and the button; with the category that the button names."""
    button, comment = at(item, "data.reason", str) or "", at(item, "data.comment", str) or ""
    words = [one for one in (WORDS.get(button, ""), comment) if not is_blank(one)]
    return {"reason": ": ".join(words), "category": CATEGORIES.get(button)}


def _follow_up(history: Mapping[str, Any], answer: Item) -> str | None:
    """What the user wrote next, if anything."""
    for child in at(answer, "childrenIds", list) or []:
        turn = history.get(child) if isinstance(child, str) else None
        if isinstance(turn, Mapping) and turn.get("role") == "user":
            return at(turn, "content", str)
    return None
