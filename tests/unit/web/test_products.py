"""Feedback as other products hold it, over HTTP."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from daemon.intake.products.examples import EXAMPLES
from daemon.intake.products.names import Product
from daemon.store import Store
from daemon.web.products import MAX_ITEMS, SHOWN
from tests.fixtures.web import BASE_URL, error

FIXTURES = Path(__file__).parents[2] / "fixtures" / "products"
OPEN_WEBUI, LANGFUSE = "/v1/feedback/open-webui", "/v1/feedback/langfuse"


def export() -> list[Any]:
    return list(json.loads((FIXTURES / "open_webui_export.json").read_text()))


@pytest.fixture
def remembering(make_app: Callable[..., FastAPI]) -> TestClient:
    """A client of a daemon whose servers remember their answers."""
    return TestClient(make_app(serving={"exchanges": {"enabled": True}}), base_url=BASE_URL)


def test_an_export_is_stored_and_its_ids_can_be_asked_for(client: TestClient, sqlite_store: Store) -> None:
    answer = client.post(OPEN_WEBUI, json=export())
    assert answer.status_code == 202
    told = answer.json()
    assert [one["outcome"] for one in told["taken"]] == ["stored", "kept", "stored", "stored", "stored"]
    assert told["left_out"] == [{"reason": "the answer is from another model than aligned: other-model", "items": 1}]
    assert (told["items"], told["refused"], told["problems"]) == (6, 0, [])
    assert client.get(f"/v1/feedback/{told['taken'][0]['id']}").json()["state"] == "queued"
    again = client.post(OPEN_WEBUI, content=gzip.compress(json.dumps(export()).encode()))
    assert {one["outcome"] for one in again.json()["taken"]} == {"redelivered"}
    assert len(sqlite_store.reports.find()) == 4
    told = client.post(OPEN_WEBUI, params={"model": "other-model", "edits": True}, json=export()[2:4]).json()
    assert [one["outcome"] for one in told["taken"]] == ["stored", "duplicate"]
    assert {one.flagged.correction for one in sqlite_store.reports.find()} == {None, "Ottawa."}


def test_a_bad_item_loses_only_itself(client: TestClient) -> None:
    good, _, *others = export()
    del others[1]["type"]
    others[2]["data"]["comment"] = "x" * 5000
    told = client.post(OPEN_WEBUI, json=[7, good, *others]).json()
    assert [one["item"] for one in told["taken"]] == [1, 5]
    assert told["refused"] == 3
    assert [(one["item"], one["reason"]) for one in told["problems"]] == [
        (0, "schema_violation"),
        (3, "schema_violation"),
        (4, "schema_violation"),
    ]
    assert told["problems"][1]["detail"] == "type: is missing"
    assert "reason: " in told["problems"][2]["detail"]


def test_scores_wait_for_the_record_of_their_completion_and_examples_are_taken(remembering: TestClient) -> None:
    told = remembering.post(LANGFUSE, json=json.loads((FIXTURES / "langfuse_scores_v2.json").read_text())).json()
    assert [(one["item"], one["outcome"]) for one in told["taken"]] == [(number, "waiting") for number in (0, 1, 3, 4)]
    assert sum(one["items"] for one in told["left_out"]) == 3

    score = {**json.loads((FIXTURES / "langfuse_scores_v2.json").read_text())["data"][1], "name": "stars", "value": 2}
    assert remembering.post(LANGFUSE, json=score).json()["taken"] == []
    told = remembering.post(LANGFUSE, params={"score": "stars", "good_from": 4}, json=score).json()
    assert [one["outcome"] for one in told["taken"]] == ["waiting"]

    for product in (Product.OPEN_WEBUI, Product.LANGFUSE):
        for name, example in EXAMPLES[product].items():
            told = remembering.post(f"/v1/feedback/{product}", json=example["value"]).json()
            assert len(told["taken"]) == 1, name


def test_without_records_of_the_servers_scores_are_refused_with_the_reason(client: TestClient) -> None:
    page = json.loads((FIXTURES / "langfuse_scores_v2.json").read_text())
    told = client.post(LANGFUSE, json=page).json()
    assert {one["reason"] for one in told["problems"]} == {"no_record"}
    assert error(client.post(LANGFUSE, json=page["data"][0]))[:2] == (422, "no_record")


def test_a_document_of_something_else_is_refused(client: TestClient) -> None:
    for body, status, said in (
        (b"{", 422, "not JSON"),
        (b"7", 422, "must be an object"),
        (b"[[[]]]", 422, "must be an object"),
        (b'[{"type": 7}]', 422, "type: must be a text"),
        (b"[" * 900 + b"]" * 900, 422, "must be an object"),
        (json.dumps([{}] * (MAX_ITEMS + 1)).encode(), 413, f"at most {MAX_ITEMS}"),
        (b"[" + b"0," * 200_000 + b"0]", 422, "JSON values"),
    ):
        found, _, detail = error(client.post(OPEN_WEBUI, content=body))
        assert found == status, body[:20]
        assert said in detail


def test_an_empty_page_is_no_fault_and_lists_of_problems_are_short(client: TestClient) -> None:
    assert client.post(LANGFUSE, json={"data": []}).json()["items"] == 0
    told = client.post(LANGFUSE, json=[{"name": 5}] * 30 + [{"name": f"n{number}"} for number in range(30)])
    assert (told.json()["refused"], len(told.json()["problems"]), len(told.json()["left_out"])) == (30, SHOWN, SHOWN)


def test_a_sender_without_quota_is_told_when_to_come_again(make_app: Callable[..., FastAPI]) -> None:
    client = TestClient(make_app(intake={"max_reports_per_day": 2}), base_url=BASE_URL)
    answer = client.post(OPEN_WEBUI, json=export())
    assert error(answer)[:2] == (429, "quota")
    assert int(answer.headers["Retry-After"]) > 0


def test_events_of_opentelemetry_are_taken_in_both_encodings(remembering: TestClient, sqlite_store: Store) -> None:
    raw = (FIXTURES / "otlp_logs.binpb").read_bytes()
    headers = {"Content-Type": "application/x-protobuf"}
    answer = remembering.post("/v1/logs", content=raw, headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/x-protobuf")
    partial = ExportLogsServiceResponse.FromString(answer.content).partial_success
    assert partial.rejected_log_records == 0
    assert partial.error_message == "1 left out: the score 'Relevance' is not feedback; name it (score)"
    assert sum(sqlite_store.signals.counts().values()) == 2
    [example] = [one["value"] for one in EXAMPLES[Product.OTLP].values()]
    answer = remembering.post("/v1/logs", content=gzip.compress(json.dumps(example).encode()))
    assert (answer.status_code, answer.json()) == (200, {})
    broken = json.loads(json.dumps(example))
    events = broken["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    events.append({"eventName": "gen_ai.evaluation.result"})
    assert remembering.post("/v1/logs", json=broken).json() == {
        "partialSuccess": {
            "rejectedLogRecords": "1",
            "errorMessage": "schema_violation: gen_ai.evaluation.name: is missing or no text",
        }
    }
    assert remembering.post("/v1/logs", json={"resourceLogs": []}).json() == {}
    assert error(remembering.post("/v1/logs", json={"resourceLogs": 7}))[0] == 422
    assert error(remembering.post("/v1/logs", content=b"\xff\xff", headers=headers))[:2] == (422, "schema_violation")
    bomb = gzip.compress(b"\x00" * 3_000_000)
    assert error(remembering.post("/v1/logs", content=bomb, headers=headers))[:2] == (413, "oversized")
