"""The operators' API: listings and commands."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from daemon.errors import StoreUnavailableError
from daemon.records import utcnow
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.learned import Learned
from tests.fixtures.stores import add, run_to_verdict
from tests.fixtures.web import error


@pytest.mark.parametrize(
    "path",
    ["/v1/feedback/no-such-id", "/api/reports/no-such-id", "/api/runs/7", "/api/adapters/7", "/api/intents/7"],
)
def test_what_does_not_exist_is_not_found(path: str, client: TestClient) -> None:
    assert error(client.get(path))[:2] == (404, "not_found")


def test_an_address_of_no_route_has_a_reason_of_its_own(client: TestClient) -> None:
    assert error(client.get("/x"))[:2] == (404, "unknown_address")


def test_status_is_words_and_figures(learned: Learned, client: TestClient) -> None:
    status = client.get("/api/status").json()
    assert status["live"]["name"] == "aligned-g000001"
    assert status["reports"]["lesson"] == 1
    assert status["daemon_runs"] is False
    assert any("aligned-g000001" in sentence for sentence in status["summary"])


def test_reports_can_be_filtered(client: TestClient, sqlite_store: Store) -> None:
    add(sqlite_store, flagged(id="a", category="format"), flagged(id="b", category="harmful"))
    assert [row["id"] for row in client.get("/api/reports?category=format").json()] == ["a"]
    assert [row["id"] for row in client.get("/api/reports?search=b").json()] == ["b"]
    assert client.get("/api/reports?principal=nobody").json() == []
    assert {row["principal"] for row in client.get("/api/reports?principal=test").json()} == {"test"}
    assert client.get("/api/reports?state=buried").json() == []
    assert len(client.get("/api/reports?limit=1&offset=1").json()) == 1


def test_a_listing_tells_its_total_and_takes_every_filter(client: TestClient, sqlite_store: Store) -> None:
    add(sqlite_store, flagged(id="a", severity="high", tenant="east", reporter="ann"), flagged(id="b"), flagged(id="c"))
    answer = client.get("/api/reports?limit=1&sort=severity")
    assert ([row["id"] for row in answer.json()], answer.headers["x-total-count"]) == (["a"], "3")
    today = f"{utcnow():%Y-%m-%d}"
    query = f"severity=high&evidence=unchecked&tenant=east&reporter=ann&since={today}&until={today}"
    query += "&search=&state=&category="
    assert [row["id"] for row in client.get(f"/api/reports?{query}").json()] == ["a"]
    assert client.get("/api/reports?until=2020-01-01&since=").json() == []


def test_an_export_is_a_file_of_what_the_filter_leaves(client: TestClient, sqlite_store: Store) -> None:
    add(sqlite_store, flagged(id="a", category="style"), flagged(id="b", category="format"))
    answer = client.get("/api/export?format=jsonl&category=style")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-disposition"] == 'attachment; filename="reports.jsonl"'
    assert [json.loads(line)["id"] for line in answer.text.splitlines()] == ["a"]
    table = client.get("/api/export?format=csv")
    assert table.headers["content-type"].startswith("text/csv")
    assert {row["id"] for row in csv.DictReader(table.text.splitlines())} == {"a", "b"}


def test_an_export_from_a_database_that_does_not_answer_is_an_error(
    client: TestClient, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailableError("it is away")

    monkeypatch.setattr("daemon.store.reports.matching_after", fail)
    assert error(client.get("/api/export?format=csv"))[:2] == (503, "store_unavailable")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/api/reports?since=yesterday", "query.since"),
        ("/api/reports?until=9999-12-31", "query.until"),
        ("/api/reports?sort=random", "query.sort"),
        ("/api/export?format=xlsx", "query.format"),
        ("/api/export", "query.format"),
        ("/api/reports?state=happy", "query.state"),
        ("/api/reports?limit=0", "query.limit"),
        ("/api/reports?search=%00", "query.search"),
        ("/api/reports/%00", "path.report_id"),
        ("/v1/feedback/%00", "path.report_id"),
        ("/api/runs/seven", "path.run_id"),
    ],
)
def test_a_senseless_question_names_its_parameter(path: str, named: str, client: TestClient) -> None:
    status, reason, detail = error(client.get(path))
    assert (status, reason) == (422, "invalid_request")
    assert named in detail


def test_a_report_is_shown_from_message_to_fix(learned: Learned, client: TestClient) -> None:
    report = client.get(f"/api/reports/{learned.report_id}").json()
    assert report["messages"][0]["content"].startswith("What is the capital")
    assert report["lesson"]["analysis"] == "It is wrong."
    assert [adapter["generation"] for adapter in report["trained_in"]] == [1]
    [measured] = report["measured"]
    assert (measured["before"]["passed"], measured["after"]["passed"]) == (False, True)
    assert (measured["before"]["arm"], measured["after"]["arm"]) == ("aligned-g000000", "aligned-g000001")


@pytest.mark.parametrize("path", ["/api/runs/{run_id}", "/api/adapters/{generation}"])
def test_a_generation_is_shown_with_lineage_and_verdict(path: str, learned: Learned, client: TestClient) -> None:
    shown = client.get(path.format(run_id=learned.run_id, generation=learned.generation)).json()
    assert shown["adapter"]["name"] == "aligned-g000001"
    assert shown["run"]["id"] == learned.run_id
    assert shown["trained_on"] == [learned.report_id]
    assert shown["verdict"]["accepted"] is True
    assert shown["verdict"]["figures"] == {"live_generation": 0}


def test_the_base_model_is_shown_without_a_run(client: TestClient) -> None:
    shown = client.get("/api/adapters/0").json()
    assert (shown["run"], shown["verdict"], shown["trained_on"]) == (None, None, [])


def test_listings_are_newest_first(learned: Learned, client: TestClient) -> None:
    assert [row["generation"] for row in client.get("/api/adapters").json()] == [1, 0]
    assert [row["id"] for row in client.get("/api/runs").json()] == [learned.run_id]
    assert [row["generation"] for row in client.get("/api/adapters?state=live").json()] == [1]


def test_an_intent_is_queued_in_the_name_of_who_asked(client: TestClient, sqlite_store: Store) -> None:
    answer = client.post("/api/train", json={"reason": "new data"}, headers={"X-Erratad-Actor": "ann"})
    assert answer.status_code == 202
    assert (answer.json()["kind"], answer.json()["actor"], answer.json()["state"]) == ("train", "ann", "pending")
    assert client.get(f"/api/intents/{answer.json()['id']}").json() == answer.json()
    [entry] = sqlite_store.audit.entries()
    assert (entry.actor, entry.action, entry.reason) == ("ann", "train", "new data")


def test_promotion_and_rollback_name_their_generation(client: TestClient, sqlite_store: Store) -> None:
    run_to_verdict(sqlite_store)
    promotion = client.post("/api/promote", json={"generation": 1})
    assert (promotion.status_code, promotion.json()["target_generation"]) == (202, 1)


def test_rollback_goes_to_the_previous_generation_by_default(learned: Learned, client: TestClient) -> None:
    answer = client.post("/api/rollback", json={"reason": "worse"})
    assert (answer.status_code, answer.json()["target_generation"]) == (202, None)


def test_what_can_never_happen_is_refused_at_once(client: TestClient, sqlite_store: Store) -> None:
    run_to_verdict(sqlite_store, accepted=False)
    assert error(client.post("/api/promote", json={"generation": 1}))[:2] == (409, "illegal_transition")
    assert error(client.post("/api/promote", json={"generation": 9}))[:2] == (404, "not_found")
    assert error(client.post("/api/rollback", json={}))[:2] == (409, "illegal_transition")


@pytest.mark.parametrize(
    ("body", "named"),
    [({"reasn": "typo"}, "reasn"), ({"reason": ""}, "reason"), ({"reason": "\u0000"}, "reason"), ([], "body")],
)
def test_a_wrong_request_names_its_field(body: Any, named: str, client: TestClient) -> None:
    status, _, detail = error(client.post("/api/train", json=body))
    assert status == 422
    assert named in detail


def test_pause_and_resume(client: TestClient, sqlite_store: Store) -> None:
    paused = client.post("/api/pause", json={"stage": "finetune", "reason": "GPU is needed"}).json()
    assert [(pause["stage"], pause["reason"]) for pause in paused] == [("finetune", "GPU is needed")]
    assert client.post("/api/resume", json={"stage": "finetune"}).json() == {"lifted": True}
    assert client.post("/api/resume", json={"stage": "finetune"}).json() == {"lifted": False}
    status, _, detail = error(client.post("/api/pause", json={"stage": "fine-tune"}))
    assert status == 404
    assert "finetune" in detail
