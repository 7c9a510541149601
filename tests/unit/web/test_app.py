"""The HTTP application: access, requests, responses and errors."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from connectors.messages import json_schema
from daemon import metrics
from daemon.config import Config
from daemon.errors import ConfigError, StoreUnavailableError
from daemon.intake.stage import FeedbackIntake
from daemon.operations.health import Live, Ready
from daemon.records import ReportState
from daemon.store import Store
from daemon.web.app import create_app
from daemon.web.guard import Guard
from tests.fixtures.config import flagged
from tests.fixtures.learned import Learned
from tests.fixtures.stores import add, mark, run_to_verdict

BASE_URL = "http://127.0.0.1:8077"
TOKEN = "a-good-token"


class Condition:
    """A stand-in for `Health` with a given result."""

    def __init__(self, *, stalled: tuple[str, ...] = (), missing: tuple[str, ...] = ()) -> None:
        self.stalled = stalled
        self.missing = missing

    def live(self) -> Live:
        return Live(stalled=self.stalled)

    def ready(self) -> Ready:
        return Ready(missing=self.missing)


@pytest.fixture
def make_app(sqlite_store: Store, make_config: Callable[..., Config]) -> Callable[..., FastAPI]:
    def make(health: Any = None, **sections: Any) -> FastAPI:
        config = make_config(**sections)
        intake = FeedbackIntake(reports=sqlite_store.reports, config=config.intake)
        return create_app(store=sqlite_store, intake=intake, config=config, health=health or Condition())

    return make


@pytest.fixture
def client(make_app: Callable[..., FastAPI]) -> Iterator[TestClient]:
    with TestClient(make_app(), base_url=BASE_URL) as client:
        yield client


@pytest.fixture
def guarded(make_app: Callable[..., FastAPI], monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """An app that listens on the network and requires a token."""
    monkeypatch.setenv("ERRATAD_TEST_TOKEN", TOKEN)
    app = make_app(http={"host": "0.0.0.0", "token_env": "ERRATAD_TEST_TOKEN"})
    with TestClient(app, base_url="http://erratad.example") as client:
        yield client


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def error(answer: Any) -> tuple[int, str, str]:
    problem = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    return answer.status_code, problem["reason"], problem["detail"]


# --- feedback ---


def test_a_report_is_stored_when_the_answer_comes(client: TestClient, sqlite_store: Store) -> None:
    message = flagged(id="r/1")
    answer = client.post("/v1/feedback", content=message.encode())
    assert (answer.status_code, answer.json()) == (202, {"id": "r/1", "outcome": "stored"})
    assert sqlite_store.reports.get("r/1").flagged == message


def test_a_report_sent_again_is_taken_again_and_stored_once(client: TestClient, sqlite_store: Store) -> None:
    message = flagged()
    client.post("/v1/feedback", content=message.encode())
    again = client.post("/v1/feedback", content=message.encode())
    assert (again.status_code, again.json()["outcome"]) == (202, "redelivered")
    assert len(sqlite_store.reports.find()) == 1


def test_an_id_with_other_content_is_a_conflict(client: TestClient) -> None:
    client.post("/v1/feedback", content=flagged(id="twice").encode())
    status, reason, detail = error(client.post("/v1/feedback", content=flagged(id="twice").encode()))
    assert (status, reason) == (409, "conflict")
    assert "twice" in detail


@pytest.mark.parametrize(
    ("body", "reason", "named"),
    [
        (b"", "malformed_json", "JSON"),
        (b"{", "malformed_json", "JSON"),
        (b"\xff", "not_utf8", "UTF-8"),
        (b'{"version": 2}', "wrong_version", "version"),
        (b'{"version": 1}', "schema_violation", "id"),
        (b"[" * 100_000, "malformed_json", "JSON"),
    ],
)
def test_what_cannot_be_decoded_is_refused_with_reason_and_field(
    body: bytes, reason: str, named: str, client: TestClient, sqlite_store: Store
) -> None:
    status, said, detail = error(client.post("/v1/feedback", content=body))
    assert (status, said) == (422, reason)
    assert named in detail
    assert sqlite_store.reports.find() == []


def test_a_database_outage_asks_to_come_back(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise StoreUnavailableError("the database does not answer")

    monkeypatch.setattr(FeedbackIntake, "submit", away)
    answer = client.post("/v1/feedback", content=flagged().encode())
    assert error(answer)[:2] == (503, "store_unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_the_schema_is_published(client: TestClient) -> None:
    assert client.get("/v1/feedback/schema").json() == json_schema()


def test_a_reporter_sees_the_state_and_no_content(learned: Learned, client: TestClient) -> None:
    url = f"/v1/feedback/{learned.report_id}"
    before = client.get(url).json()
    mark(learned.store, [learned.report_id], ReportState.RESOLVED, generation=1)
    after = client.get(url).json()
    assert (before["state"], before["fixed_in_generation"]) == ("lesson", None)
    assert (after["state"], after["fixed_in_generation"]) == ("resolved", 1)
    assert before["said"] == "analysed; waiting for the next training run"
    assert after["said"] == "fixed in generation 1"
    assert set(after) == {"id", "state", "said", "fixed_in_generation", "received_at", "updated_at"}


def test_a_recurring_report_is_not_called_fixed(learned: Learned, client: TestClient) -> None:
    mark(learned.store, [learned.report_id], ReportState.RECURRING, generation=1)
    assert client.get(f"/v1/feedback/{learned.report_id}").json()["fixed_in_generation"] is None


@pytest.mark.parametrize(
    "path",
    ["/v1/feedback/no-such-id", "/api/reports/no-such-id", "/api/runs/7", "/api/adapters/7", "/api/intents/7", "/x"],
)
def test_what_does_not_exist_is_not_found(path: str, client: TestClient) -> None:
    assert error(client.get(path))[:2] == (404, "not_found")


# --- bounds and guards ---


def test_an_oversized_body_is_refused(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app(intake={"max_message_bytes": 100}), base_url=BASE_URL) as client:
        assert error(client.post("/v1/feedback", content=b"x" * 101))[:2] == (413, "oversized")
        assert error(client.post("/v1/feedback", content=itertools.repeat(b"x" * 30, 4)))[:2] == (413, "oversized")
        assert error(client.post("/api/train", json={"reason": "x" * 200}))[:2] == (413, "oversized")
        assert error(client.post("/v1/feedback", content=b"x" * 100))[0] == 422


def test_a_body_without_end_is_cut_off_at_the_bound() -> None:
    received: list[int] = []

    async def endless() -> Message:
        received.append(len(received))
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    async def reads_all(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            await receive()

    async def ignore(message: Message) -> None: ...

    guard = Guard(reads_all, max_body_bytes=100, allowed_hosts=None)
    scope: Scope = {"type": "http", "method": "POST", "headers": []}
    with pytest.raises(Exception, match="100 bytes"):
        asyncio.run(guard(scope, endless, ignore))
    assert len(received) == 11


@pytest.mark.parametrize("length", ["-1", "many", "9" * 30])
def test_a_senseless_content_length_is_refused(length: str, client: TestClient) -> None:
    assert error(client.post("/v1/feedback", content=b"", headers={"content-length": length}))[0] == 413


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "evil.example:8077"])
def test_a_loopback_port_answers_to_no_other_name(host: str, client: TestClient) -> None:
    assert error(client.get("/api/status", headers={"host": host}))[:2] == (421, "wrong_host")


@pytest.mark.parametrize("host", ["127.0.0.1:8077", "localhost", "LOCALHOST:1", "[::1]:8077", "erratad.internal:443"])
def test_a_loopback_port_answers_to_its_names(host: str, make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app(http={"allowed_hosts": ["Erratad.internal"]}), base_url=BASE_URL) as client:
        assert client.get("/livez", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_site_cannot_post(headers: dict[str, str], client: TestClient, sqlite_store: Store) -> None:
    assert error(client.post("/api/pause", json={}, headers=headers))[:2] == (403, "cross_site")
    assert error(client.post("/v1/feedback", content=flagged().encode(), headers=headers))[0] == 403
    assert sqlite_store.control.pauses() == []
    assert sqlite_store.reports.find() == []


def test_a_page_of_our_own_can_post(client: TestClient) -> None:
    headers = {"origin": BASE_URL, "sec-fetch-site": "same-origin"}
    assert client.post("/api/pause", json={}, headers=headers).status_code == 200


# --- token ---


PROTECTED = ["/api/status", "/api/reports", "/api/audit", "/v1/feedback/schema", "/v1/feedback/r1"]


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("wrong"), bearer(""), {"Authorization": "Bearer"}, {b"Authorization": b"Bearer \xff"}],
)
def test_without_the_token_there_is_nothing_to_see(headers: Any, guarded: TestClient) -> None:
    for path in PROTECTED:
        answer = guarded.get(path, headers=headers)
        assert error(answer)[:2] == (401, "unauthorized"), path
        assert "www-authenticate" in answer.headers


@pytest.mark.parametrize("path", ["/api/train", "/api/pause", "/v1/feedback"])
def test_without_the_token_nothing_can_be_asked_for(path: str, guarded: TestClient) -> None:
    assert guarded.post(path, json={}).status_code == 401
    assert guarded.post(path, json={}, auth=("anyone", TOKEN)).status_code == 401


def test_with_the_token_everything_is_there(guarded: TestClient) -> None:
    assert guarded.get("/api/status", headers=bearer()).status_code == 200
    assert guarded.post("/v1/feedback", content=flagged().encode(), headers=bearer()).status_code == 202


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_probes_and_metrics_need_no_token(path: str, guarded: TestClient) -> None:
    assert guarded.get(path).status_code == 200


def test_a_token_variable_that_is_not_set_ends_the_start(
    make_app: Callable[..., FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ERRATAD_TEST_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="ERRATAD_TEST_TOKEN"):
        make_app(http={"token_env": "ERRATAD_TEST_TOKEN"})


def test_a_token_that_no_header_can_carry_ends_the_start(
    make_app: Callable[..., FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERRATAD_TEST_TOKEN", "schlüssel")
    with pytest.raises(ConfigError, match="ASCII"):
        make_app(http={"token_env": "ERRATAD_TEST_TOKEN"})


# --- probes ---


def test_the_probes_say_what_is_wrong(make_app: Callable[..., FastAPI]) -> None:
    app = make_app(Condition(stalled=("ingest",), missing=("serving: none",)))
    with TestClient(app, base_url=BASE_URL) as client:
        live, ready = client.get("/livez"), client.get("/readyz")
    assert (live.status_code, live.json()) == (503, {"alive": False, "stalled": ["ingest"]})
    assert (ready.status_code, ready.json()) == (503, {"ready": False, "missing": ["serving: none"]})


def test_metrics_are_prometheus_text(client: TestClient) -> None:
    metrics.LIVE_GENERATION.set(3)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "erratad_live_generation 3.0" in answer.text


# --- operators: listings ---


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
    assert client.get("/api/reports?state=buried").json() == []
    assert len(client.get("/api/reports?limit=1&offset=1").json()) == 1


@pytest.mark.parametrize(
    ("path", "named"),
    [
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


# --- operators: commands ---


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


def test_the_api_describes_itself(client: TestClient) -> None:
    spec = client.get("/openapi.json").json()
    operations = [(path, verb, operation) for path, verbs in spec["paths"].items() for verb, operation in verbs.items()]
    assert len(operations) >= 18
    for path, verb, operation in operations:
        success = next(code for code in operation["responses"] if code.startswith("2"))
        content = operation["responses"][success].get("content", {})
        schema = content.get("application/json", {}).get("schema")
        assert schema or path == "/metrics", (verb, path)
    body = spec["paths"]["/v1/feedback"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == set(json_schema()["properties"])
    assert body["additionalProperties"] is False
