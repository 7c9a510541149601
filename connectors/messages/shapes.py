"""The shapes in which clients send a report: from values as they come to the values of the wire schema.

Whatever has one clear meaning is rewritten here; the schema (`report`) then checks the result. Every
function leaves a value of the schema as it is, so a stored report is read as it was written.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

MAX_PARTS = 1000
"""Parts in one report: a placeholder is longer than the shortest part, so very many would outgrow the message."""
MAX_ID_CHARACTERS = 200
_COMPLETION_IDS = ("response_id", "generation_id")
"""Other names for `completion_id`."""
TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_KINDS = {
    "input_image": "image",
    "image_url": "image",
    "image_embeds": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "audio_embeds": "audio",
    "video_url": "video",
    "video_embeds": "video",
    "input_file": "file",
}
_RATINGS = {
    **dict.fromkeys(("up", "thumbsup", "thumbup", "like", "1", "+1", "\N{THUMBS UP SIGN}"), "up"),
    **dict.fromkeys(("down", "thumbsdown", "thumbdown", "dislike", "-1", "\N{THUMBS DOWN SIGN}"), "down"),
}
_PLACEHOLDER = re.compile(r"\[[a-z0-9_]{1,32} [0-9a-f]{8}\]")
_CATEGORY = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
_BLANK_MARKS = re.compile(r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\ufe00-\ufe0f]")
"""Characters that Unicode counts as letters or marks and that show nothing, such as the Hangul fillers."""


def is_blank(text: str) -> bool:
    """Whether the text shows nothing: white space, control and zero-width characters only."""
    if text[:1].isalnum() and text.isascii():  # nearly every text, without a look at each character
        return False
    return all(unicodedata.category(one) in _INVISIBLE for one in _BLANK_MARKS.sub("", text))


def blank_as_none(value: Any) -> Any:
    return None if isinstance(value, str) and is_blank(value) else value


def blank_as_empty(value: Any) -> Any:
    return "" if value is None or (isinstance(value, str) and is_blank(value)) else value


def number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def name(value: Any) -> Any:
    """A person's or a tenant's name: without outer blanks."""
    value = number_as_text(value)
    return value.strip() if isinstance(value, str) else value


def word(value: Any) -> Any:
    """A word of a closed set, in lower case."""
    return value.strip().lower() if isinstance(value, str) else value


def category(value: Any) -> Any:
    """'Wrong Fact' -> 'wrong-fact'; letters of every script stay. Blank is None.

    Raises:
        ValueError: the text has no letter and no digit.
    """
    value = blank_as_none(value)
    if not isinstance(value, str) or _CATEGORY.fullmatch(value):
        return value
    found = re.sub(r"[^\w-]+|-{2,}", "-", unicodedata.normalize("NFKC", value).lower()).strip("-_")[:64]
    if not found:
        raise ValueError("needs a letter or a digit, such as 'wrong-fact'")
    return found


def completion_id(value: Any) -> Any:
    return blank_as_none(name(value))


def rating(value: Any) -> Any:
    """'up' or 'down' for a rating that says one of them; None for any other."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    found = re.sub(r"[\s_-]", "", str(value).lower()) if isinstance(value, str) else str(value)
    return _RATINGS.get(str(value).strip()) or _RATINGS.get(found)


def follow_up(value: Any) -> Any:
    """The user's next message as one text; a placeholder stands for each part that is no text."""
    if isinstance(value, dict):
        value = value.get("content")
    return blank_as_none(text_of(content(value)))


# --- messages ---


def content(value: Any) -> Any:
    """The content of a message: a text, or parts. Parts that are no text become placeholders.

    Raises:
        ValueError: it is neither, or a part is neither a text nor an object.
    """
    if isinstance(value, list):
        return [_part(part) for part in value if _holds(part)]
    if not isinstance(value, str | None):
        raise ValueError("must be a text, a list of parts, or null")  # noqa: TRY004 - pydantic
    return value or ""


def _kind(part: Mapping[str, Any]) -> str:
    kind = part.get("type")
    return kind if isinstance(kind, str) else "text" if isinstance(part.get("text"), str) else "part"


def _holds(part: Any) -> bool:
    """False for a text part without a text: servers skip it."""
    return not (isinstance(part, dict) and _kind(part) in TEXT_PARTS and part.get("text") is None)


def _part(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise ValueError("a part must be a text or an object such as {'type': 'text', 'text': ...}")  # noqa: TRY004
    kind = _kind(part)
    if _PLACEHOLDER.fullmatch(str(part.get("placeholder"))):
        return {"type": kind, "placeholder": part["placeholder"]}
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return part
    if kind not in TEXT_PARTS:
        return {"type": kind, "placeholder": placeholder(kind, part)}
    if not isinstance(part["text"], str):
        raise ValueError("the text of a part must be a text")  # noqa: TRY004 - pydantic
    return {**part, "type": kind}


def placeholder(kind: str, value: Any) -> str:
    """A text in place of an image, a sound or a file: its kind, and the start of its SHA-256.

    The hash tells different ones apart; the value itself is not kept.
    """
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=True)
    plain = re.sub(r"[^a-z0-9_]+", "", _KINDS.get(kind, kind).lower())[:32] or "part"
    return f"[{plain} {hashlib.sha256(canonical.encode()).hexdigest()[:8]}]"


def audio(value: Any) -> Any:
    """The sound of an answer, as a placeholder."""
    known = value is None or (isinstance(value, str) and _PLACEHOLDER.fullmatch(value))
    return value if known else placeholder("audio", value)


def text_of(parts: str | list[dict[str, Any]]) -> str:
    """The content as one text, as vLLM joins text parts; a placeholder stands for each part that is no text."""
    return parts if isinstance(parts, str) else "\n".join(_text_of(part) for part in parts)


def _text_of(part: Mapping[str, Any]) -> str:
    if part["type"] == "refusal":
        return refused(str(part.get("refusal")))
    return str(part.get("text", part.get("placeholder")))


def refused(refusal: str) -> str:
    return f"[refusal: {refusal}]"


def foreign_parts(parts: str | list[dict[str, Any]]) -> list[str]:
    """The kinds of the parts that are no text."""
    if isinstance(parts, str):
        return []
    kinds = [str(part["type"]) for part in parts if part["type"] not in TEXT_PARTS]
    return [_KINDS.get(kind, kind) for kind in kinds]


def message(value: Any) -> Any:
    """A message as a client's library gives it back: one name for the thoughts."""
    if not isinstance(value, dict):
        return value
    found = dict(value)
    thoughts = found.pop("reasoning_content", None)
    if found.get("reasoning") is None and thoughts is not None:
        found["reasoning"] = thoughts
    return found


def calls_text(calls: list[dict[str, Any]]) -> str:
    """Tool calls for people and for the analyst."""
    return "\n".join(_call_text(call) for call in calls)


def _call_text(call: Mapping[str, Any]) -> str:
    function = call.get("function", call)
    if not isinstance(function, dict) or "name" not in function:
        return f"[calls a tool: {json.dumps(call, ensure_ascii=False)}]"
    arguments = function.get("arguments")
    given = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"[calls {function['name']} with {given}]"


# --- the report ---


def report(value: Any, known: frozenset[str], known_checks: frozenset[str]) -> Any:
    """A report with the flagged answer in `response` and `tool_calls`, and unknown fields in `metadata`.

    `known`: the fields of the report. A field that is null is absent, but for `response`: null is an empty answer.

    Raises:
        ValueError: it has more than MAX_PARTS parts.
    """
    if not isinstance(value, dict):
        return value
    _count_parts(value.get("messages"))
    found = {key: one for key, one in value.items() if one is not None or key == "response"}
    extra = {key: found.pop(key) for key in list(found) if key not in known}
    extra.pop("not_trainable", None)
    if not _is_message(found.get("follow_up", "")):
        extra["follow_up"] = found.pop("follow_up")
    _name_completion(found, extra)
    _take_signals(found, extra)
    if isinstance(checks := found.get("checks"), dict):
        extra |= {f"checks.{key}": one for key, one in checks.items() if key not in known_checks}
        found["checks"] = {key: one for key, one in checks.items() if key in known_checks and one is not None}
    extra |= _take_answer(found)
    if extra and isinstance(found.get("metadata", {}), dict):
        found["metadata"] = {**extra, **found.get("metadata", {})}
    return found


def _is_message(value: Any) -> bool:
    """Whether a follow-up can be read as a message. Anything else was an unknown field before, and stays one."""
    return isinstance(value, str | list) or (isinstance(value, dict) and "content" in value)


def _name_completion(found: dict[str, Any], extra: Mapping[str, Any]) -> None:
    """Take the completion's id from a field with another name, which stays in the metadata as well."""
    if "completion_id" not in found:
        given = [extra[other] for other in _COMPLETION_IDS if isinstance(extra.get(other), str)]
        usable = [one.strip() for one in given if not is_blank(one) and len(one.strip()) <= MAX_ID_CHARACTERS]
        found |= {"completion_id": usable[0]} if usable else {}


def _take_signals(found: dict[str, Any], extra: dict[str, Any]) -> None:
    """Rating, comment and edit. Each stays in the metadata as it was sent: it was only there before it was a field."""
    if "rating" in found:
        extra["rating"] = found["rating"]
        if rating(found["rating"]) is None:
            del found["rating"]
    for name, field, most in (("comment", "reason", 4000), ("edit", "correction", None)):
        said = extra.get(name)
        usable = isinstance(said, str) and not is_blank(said) and (most is None or len(said) <= most)
        if usable and blank_as_none(found.get(field)) is None:
            found[field] = said


def with_completion_id(metadata: Mapping[str, Any], value: str | None) -> dict[str, Any]:
    """The metadata as they are without a field for the completion's id."""
    if value is None or value in {
        metadata.get(other) for other in _COMPLETION_IDS if isinstance(metadata.get(other), str)
    }:
        return dict(metadata)
    return {"completion_id": value, **metadata}


def _count_parts(messages: Any) -> None:
    contents = [one.get("content") for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    count = sum(len(one) for one in contents if isinstance(one, list))
    if count > MAX_PARTS:
        raise ValueError(f"messages hold {count} content parts; at most {MAX_PARTS} are taken")


def _take_answer(found: dict[str, Any]) -> dict[str, Any]:
    """Move the flagged answer to its fields; returns what is left of it.

    It may be a whole message in `response`, or the last message of the conversation.
    """
    messages, answer = found.get("messages"), found.get("response")
    extra: dict[str, Any] = {}
    if isinstance(answer, dict):
        extra = _take_message(found, answer)
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, dict) and word(last.get("role")) == "assistant" and len(messages or ()) > 1:
        if found.get("response") is None and not found.get("tool_calls"):
            extra |= _take_message(found, last)
            found["messages"] = messages[:-1]  # type: ignore[index]
        elif _plain(joined(last.get("content"))) == _plain(found.get("response")):
            extra |= _take_message(found, {**last, "content": found.get("response")})
            found["messages"] = messages[:-1]  # type: ignore[index]
    return extra


def _take_message(found: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    rest = {key: one for key, one in answer.items() if one not in (None, [], {}) and key != "role"}
    said = rest.pop("content", None)
    found["response"] = rest.get("refusal") if said is None else said
    rest.pop("refusal", None)
    calls = rest.pop("tool_calls", None)
    if calls is None and isinstance(call := rest.pop("function_call", None), dict):
        calls = [{"type": "function", "function": call}]
    if calls is not None:
        found.setdefault("tool_calls", calls)
    return {f"response.{key}": one for key, one in rest.items()}


def joined(answer: Any) -> Any:
    """The answer as one text. Parts that are no text stay as they are: the schema refuses them."""
    if answer is None:
        return ""
    if not isinstance(answer, list):
        return answer
    texts = [_answer_part(part) for part in answer]
    return "\n".join(texts) if all(isinstance(one, str) for one in texts) else answer


def _answer_part(part: Any) -> Any:
    if not isinstance(part, dict) or _kind(part) not in {*TEXT_PARTS, "refusal"}:
        return part
    return part.get("refusal" if _kind(part) == "refusal" else "text") or ""


def _plain(text: Any) -> Any:
    return " ".join(text.split()) if isinstance(text, str) else text
