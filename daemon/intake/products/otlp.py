"""Events `gen_ai.evaluation.result` of OpenTelemetry, as records of OTLP logs in their JSON form.

An event names the completion (`gen_ai.response.id`) and does not hold it: it is read as the short form.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from connectors.otlp import EVALUATION, LABEL, NAME, RESPONSE_ID, VALUE
from daemon.intake.formats.cells import RowError
from daemon.intake.products.fields import Choices, Item, at, needed
from daemon.intake.products.scores import check_name, thumb

EXPLANATION = "gen_ai.evaluation.explanation"
NANOSECONDS = 1_000_000_000


def items(document: Any) -> list[Any]:
    """The events among the log records of a request (ExportLogsServiceRequest). Other records are ignored.

    Raises:
        RowError: it is none.
    """
    return [
        record
        for resource in _listed(document, "resourceLogs")
        for scope in _listed(resource, "scopeLogs")
        for record in _listed(scope, "logRecords")
        if not isinstance(record, Mapping) or _is_event(record)
    ]


def message(item: Item, choices: Choices) -> dict[str, Any]:
    """The event as a message in the short form, without an id.

    Raises:
        LeftOutError: it is no feedback of a user.
        RowError: names the field that is missing or wrong.
    """
    values = _attributes(item)
    name, completion = values.get(NAME), values.get(RESPONSE_ID)
    if not isinstance(name, str):
        raise RowError(NAME, "is missing or no text")
    check_name(name, choices)
    if not isinstance(completion, str):
        raise RowError(RESPONSE_ID, "is missing or no text; erratad finds the answer by it")
    explanation = values.get(EXPLANATION)
    return {
        "completion_id": completion,
        "rating": _thumb(values, choices),
        "comment": explanation if isinstance(explanation, str) else None,
        "occurred_at": _time(item),
        "reporter": next((values[one] for one in ("user.id", "enduser.id") if values.get(one)), "opentelemetry"),
        "metadata": {
            "source": "opentelemetry",
            "evaluation": name,
            "trace_id": at(item, "traceId", str),
            "span_id": at(item, "spanId", str),
        },
    }


def _is_event(record: Item) -> bool:
    """By the name, or by the attribute that older versions of OpenTelemetry use."""
    if record.get("eventName") == EVALUATION:
        return True
    attributes = record.get("attributes")
    named = {"key": "event.name", "value": {"stringValue": EVALUATION}}
    return isinstance(attributes, list) and named in attributes


def _listed(part: Any, name: str) -> list[Any]:
    if not isinstance(part, Mapping) or not isinstance(part.get(name, []), list):
        raise RowError(name, "must be a list in an object, as OTLP writes it")
    return list(part.get(name, []))


def _thumb(values: Mapping[str, Any], choices: Choices) -> str:
    """By the number, if there is one, else by the label."""
    given = values.get(VALUE)
    return thumb(values.get(LABEL) if given is None else given, choices)


def _attributes(item: Item) -> dict[str, Any]:
    """The attributes with plain values: texts, numbers, booleans. Others are not needed here."""
    found: dict[str, Any] = {}
    for pair in at(item, "attributes", list) or ():
        key = needed(pair, "key", str)
        value = at(pair, "value", dict) or {}
        if "intValue" in value:  # a text in JSON: 64 bits
            found[key] = _number(key, value["intValue"], int)
        elif "doubleValue" in value:
            found[key] = _number(key, value["doubleValue"], float)
        else:
            found[key] = value.get("stringValue", value.get("boolValue"))
    return found


def _number(key: str, given: Any, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(given)
    except (ValueError, TypeError, OverflowError) as exc:
        raise RowError(key, "is not a number") from exc


def _time(item: Item) -> str | None:
    """When the event happened, else when it was seen."""
    for name in ("timeUnixNano", "observedTimeUnixNano"):
        given = item.get(name)
        if isinstance(given, str | int) and str(given).isdecimal() and 0 < int(given) < 2**63:
            return datetime.fromtimestamp(int(given) / NANOSECONDS, UTC).isoformat()
    return None
