"""Scores of Langfuse: a page of `GET /api/public/v3/scores` or `v2/scores`, rows of the blob export, or one trace.

A score names an answer and does not hold it. It is read as the short form, by the id of the completion; from a whole
trace (`GET /api/public/traces/ID`) with the conversation and the answer of its observation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from daemon.intake.formats.cells import LeftOutError, RowError
from daemon.intake.formats.conversations import answer_of, calls_of, messages_of
from daemon.intake.products.fields import Choices, Item, at, needed
from daemon.intake.products.scores import check_name, thumb

IDS = ("completion_id", "response_id", "generation_id", "gen_ai.response.id")
"""Keys of the metadata of a score or of an observation."""
_LITELLM = re.compile(r"time-[0-9-]+_(\S+)")
"""LiteLLM names an observation by the time and the completion's id."""
_COMPLETION = re.compile(r"(chatcmpl-|cmpl-|resp_|msg_)\S+")
NO_ID = "it names no completion: put its id into the score's metadata as completion_id, or give the whole trace"


def items(document: Any) -> list[Any]:
    """The scores of a page or of a trace, each with its trace, or the single score."""
    if isinstance(document, Mapping) and isinstance(document.get("data"), list):
        return list(document["data"])
    return [item for one in (document if isinstance(document, list) else [document]) for item in _scores(one)]


def _scores(value: Any) -> list[Any]:
    if not isinstance(value, Mapping) or not isinstance(value.get("scores"), list):
        return [value]
    trace = {name: one for name, one in value.items() if name != "scores"}
    return [{**one, "trace": trace} if isinstance(one, Mapping) else one for one in value["scores"]]


def message(item: Item, choices: Choices) -> dict[str, Any]:
    """The score as a message of the wire schema, without an id.

    Raises:
        LeftOutError: it is no feedback about an answer of the model served here.
        RowError: names the field that is missing or wrong.
    """
    score = _named(item)
    said = _said(score, choices)
    observation = _observation(score)
    return {
        **said,
        **_answer(score, observation, choices),
        "occurred_at": _time(needed(score, "timestamp", str)),
        "reporter": at(score, "trace.userId", str) or at(score, "authorUserId", str) or "langfuse",
        "metadata": {
            "source": "langfuse",
            "score_id": needed(score, "id", str),
            "score": needed(score, "name", str),
            "trace_id": at(score, "traceId", str),
        },
    }


def _named(item: Item) -> dict[str, Any]:
    """The score with the names of the API's version 2; the blob export writes `trace_id` for `traceId`."""
    score = {re.sub(r"_([a-z])", lambda found: found[1].upper(), str(name)): one for name, one in item.items()}
    subject = at(score, "subject", dict) or {}  # version 3
    if subject.get("kind") == "observation":
        score |= {"observationId": subject.get("id"), "traceId": subject.get("traceId")}
    elif subject.get("kind") == "trace":
        score["traceId"] = subject.get("id")
    return score


def _said(score: Item, choices: Choices) -> dict[str, Any]:
    """The thumb, the comment or the better answer."""
    kind, value = at(score, "dataType", str), score.get("value")
    if at(score, "source", str) == "EVAL":
        raise LeftOutError("a judge gave it, no user")
    if kind == "CORRECTION":
        better = at(score, "stringValue", str) or (value if isinstance(value, str) else None)
        if not better:
            raise LeftOutError("the correction is empty")
        return {"edit": better}
    check_name(needed(score, "name", str), choices)
    if kind == "TEXT":
        raise LeftOutError("a text without a rating can be praise or complaint")
    if kind in {"CATEGORICAL", "BOOLEAN"}:
        value = at(score, "stringValue", str) or value
    return {"rating": thumb(value, choices), "comment": at(score, "comment", str)}


def _observation(score: Item) -> Item:
    """The model's answer that the score is about, out of a whole trace: the named one, or the only generation."""
    found = [one for one in at(score, "trace.observations", list) or () if isinstance(one, Mapping)]
    name = at(score, "observationId", str)
    if name is not None:
        return next((one for one in found if one.get("id") == name), {})
    generations = [one for one in found if one.get("type") == "GENERATION"]
    if len(generations) > 1:
        raise LeftOutError("the trace has several answers of models, and the score names none (observationId)")
    return generations[0] if generations else {}


def _answer(score: Item, observation: Item, choices: Choices) -> dict[str, Any]:
    """The completion's id; with conversation and answer, if the trace has them."""
    completion = _completion(score, observation)
    if not observation:
        if completion is None:
            raise LeftOutError(NO_ID)
        return {"completion_id": completion}
    messages = messages_of(observation.get("input"), "trace.observations.input")
    output = observation.get("output")
    if output is None:
        raise RowError("trace.observations.output", "is missing")
    return {
        "version": 1,
        "completion_id": completion,
        "model": choices.served(at(observation, "model", str)),
        "messages": messages,
        "response": answer_of(output, "trace.observations.output"),
        "tool_calls": calls_of(output),
    }


def _completion(score: Item, observation: Item) -> str | None:
    for place in (score, observation):
        metadata = place.get("metadata")
        named = (metadata.get(key) for key in IDS) if isinstance(metadata, Mapping) else ()
        for one in named:
            if isinstance(one, str):
                return one
    name = at(score, "observationId", str) or at(observation, "id", str) or ""
    if (found := _LITELLM.fullmatch(name)) is not None:
        return found[1]
    return name if _COMPLETION.fullmatch(name) else None


def _time(text: str) -> str:
    """RFC 3339; the blob export writes UTC without a zone."""
    return f"{text.replace(' ', 'T')}Z" if re.fullmatch(r"[0-9-]+ [0-9:.]+", text) else text
