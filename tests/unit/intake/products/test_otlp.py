"""Events of OpenTelemetry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from connectors.messages import FlaggedResponse, decode
from daemon.intake.formats.cells import LeftOutError, RowError
from daemon.intake.products.examples import EXAMPLES
from daemon.intake.products.fields import Choices
from daemon.intake.products.names import Product
from daemon.intake.products.otlp import items
from daemon.intake.products.otlp_encoding import document_of
from daemon.intake.products.reading import message_of

RECORDED = Path(__file__).parents[3] / "fixtures" / "products" / "otlp_logs.binpb"
ALIAS = Choices(alias="aligned")


def recorded() -> list[Any]:
    return items(document_of(RECORDED.read_bytes(), max_bytes=10_000))


def event(**changes: Any) -> dict[str, Any]:
    """The example, with other values of attributes; None leaves one away."""
    [example] = EXAMPLES[Product.OTLP].values()
    [found] = items(json.loads(json.dumps(example["value"])))
    attributes = {one["key"]: one["value"] for one in found["attributes"]} | changes
    found["attributes"] = [{"key": key, "value": one} for key, one in attributes.items() if one is not None]
    return dict(found)


def read(item: Any, choices: Choices = ALIAS) -> FlaggedResponse:
    return decode(message_of(Product.OTLP, item, choices))


def test_what_the_sdk_sends_is_feedback_and_its_other_records_are_ignored() -> None:
    down, up, judge = recorded()
    flagged = read(down)
    assert (flagged.completion_id, flagged.rating, flagged.reason) == ("chatcmpl-4f1c", "down", "It named Sydney.")
    assert (flagged.reporter, flagged.is_awaited) == ("user-4711", True)
    assert flagged.occurred_at.isoformat() == "2026-11-20T12:00:00+00:00"
    assert (read(up).completion_id, read(up).rating, read(up).reporter) == ("chatcmpl-5a2d", "up", "opentelemetry")
    with pytest.raises(LeftOutError, match="'Relevance' is not feedback"):
        read(judge)
    named = Choices(alias="aligned", scores=frozenset({"Relevance"}), good_from=5)
    assert read(judge, named).rating == "down"
    assert read(down).id == read(recorded()[0]).id


def test_a_label_counts_where_there_is_no_number() -> None:
    given = {"gen_ai.evaluation.score.value": None, "gen_ai.evaluation.score.label": {"stringValue": "thumbs_up"}}
    assert read(event(**given)).rating == "up"
    assert read(event(**{"gen_ai.evaluation.score.value": {"intValue": "1"}})).rating == "up"


def test_the_older_name_of_an_event_is_an_attribute() -> None:
    older = event(**{"event.name": {"stringValue": "gen_ai.evaluation.result"}})
    del older["eventName"]
    assert len(items({"resourceLogs": [{"scopeLogs": [{"logRecords": [older, {"body": {}}]}]}]})) == 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gen_ai.response.id", None, "gen_ai.response.id: is missing"),
        ("gen_ai.evaluation.name", {"intValue": 7}, "gen_ai.evaluation.name: is missing or no text"),
        ("gen_ai.evaluation.score.value", {"doubleValue": "x"}, "gen_ai.evaluation.score.value: is not a number"),
        ("gen_ai.evaluation.score.value", {"intValue": [1]}, "gen_ai.evaluation.score.value: is not a number"),
        ("gen_ai.evaluation.score.value", "x", "value: must be an object"),
    ],
)
def test_a_wrong_attribute_is_named(name: str, value: Any, said: str) -> None:
    with pytest.raises(RowError) as caught:
        read(event(**{name: value}))
    assert said in str(caught.value)


@pytest.mark.parametrize("document", [7, [], {"resourceLogs": 7}, {"resourceLogs": [7]}])
def test_what_is_no_request_is_refused(document: Any) -> None:
    with pytest.raises(RowError, match="as OTLP writes it"):
        items(document)
