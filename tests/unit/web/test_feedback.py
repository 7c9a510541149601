"""Reports over HTTP."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from connectors.messages import decode, json_schema
from daemon.config import Config
from daemon.config.web import Role
from daemon.errors import StoreUnavailableError
from daemon.intake.stage import FeedbackIntake
from daemon.labels import LeftOut, Lost
from daemon.left_out import LeftOutBy, LeftOutReport
from daemon.privacy import detect
from daemon.privacy.redact import Redactor
from daemon.records import ReportState, Source
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.learned import Learned
from tests.fixtures.stores import add, force, learn, lesson, mark, start_run
from tests.fixtures.web import BASE_URL, HOST, bearer, error


def test_a_report_is_stored_when_the_answer_comes(client: TestClient, sqlite_store: Store) -> None:
    message = flagged(id="r/1")
    answer = client.post("/v1/feedback", content=message.encode())
    assert (answer.status_code, answer.json()) == (202, {"id": "r/1", "outcome": "stored"})
    assert sqlite_store.reports.get("r/1").flagged == message


def test_a_bare_thumbs_down_is_stored_and_the_users_next_message_with_it(
    client: TestClient, sqlite_store: Store
) -> None:
    bare = flagged(id="bare", reason="", category=None)
    told = flagged(id="told", reason="", category=None, follow_up="No, the capital.")
    for message in (bare, told):
        answer = client.post("/v1/feedback", content=message.encode())
        assert (answer.status_code, answer.json()["outcome"]) == (202, "stored")
        assert sqlite_store.reports.get(message.id).flagged == message
    shown = client.get("/api/reports/told").json()["report"]
    assert (shown["category"], shown["reason"], shown["follow_up"]) == ("unknown", "", "No, the capital.")
    assert [row["id"] for row in client.get("/api/reports", params={"category": "unknown"}).json()] == ["told", "bare"]


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
    assert after["evidence"] == "claimed"
    assert (after["state"], after["fixed_in_generation"]) == ("resolved", 1)
    assert before["said"] == "analysed; waiting for the next training run"
    assert after["said"] == "fixed in generation 1"
    assert set(after) == {"id", "state", "said", "evidence", "fixed_in_generation", "received_at", "updated_at"}


def test_a_report_that_no_run_can_train_on_says_why_instead_of_waiting(learned: Learned, client: TestClient) -> None:
    first, again = (flagged(messages=[{"role": "user", "content": "Hi"}], response="No.") for _ in range(2))
    learn(learned.store, first)
    add(learned.store, again)
    run = start_run(learned.store)
    assert run is not None
    learned.store.left_out.add(
        [
            LeftOutReport(
                run_id=run.id,
                report_id=first.id,
                stage=LeftOutBy.DATASET,
                reason=LeftOut.TEMPLATE_REFUSES,
                detail="the text of another person",
            )
        ]
    )
    said = "analysed; not trainable with this model and configuration: refused by the model's chat template"
    assert client.get(f"/v1/feedback/{first.id}").json()["said"] == said
    assert client.get(f"/v1/feedback/{again.id}").json()["said"].endswith(said)


def test_a_report_that_waits_for_evidence_says_so(make_app: Callable[..., FastAPI], sqlite_store: Store) -> None:
    client = TestClient(make_app(trust={}), base_url=BASE_URL)
    [report_id] = learn(sqlite_store, flagged())
    force(sqlite_store, "UPDATE reports SET principal = 'local', evidence_detail = '0 of 3 answers are alike'")
    said = "analysed; waiting for the next training run; it waits for evidence that the model gave this answer"
    assert client.get(f"/v1/feedback/{report_id}").json()["said"] == said
    view = client.get(f"/api/reports/{report_id}").json()["standing"]
    assert (view["grade"], view["trusted"], view["analysis"]["allowed"]) == ("claimed", False, False)
    assert view["waits"] == "it waits for evidence that the model gave this answer: 0 of 3 answers are alike"
    page = client.get(f"/reports/{report_id}").text
    assert "Grade: claimed" in page
    assert "Count in the gate: no, it waits for evidence" in page


def test_a_recurring_report_is_not_called_fixed(learned: Learned, client: TestClient) -> None:
    mark(learned.store, [learned.report_id], ReportState.RECURRING, generation=1)
    assert client.get(f"/v1/feedback/{learned.report_id}").json()["fixed_in_generation"] is None


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "identity", None])
def test_a_body_packed_with_gzip_is_taken(encoding: str | None, client: TestClient, sqlite_store: Store) -> None:
    message = flagged()
    body = message.encode() if encoding == "identity" else gzip.compress(message.encode())
    headers = {} if encoding is None else {"Content-Encoding": encoding}
    assert client.post("/v1/feedback", content=body, headers=headers).status_code == 202
    assert sqlite_store.reports.get(message.id).flagged == message


def test_a_packing_that_is_not_known_is_refused_by_name(client: TestClient) -> None:
    answer = client.post("/v1/feedback", content=flagged().encode(), headers={"Content-Encoding": "br"})
    status, reason, detail = error(answer)
    assert (status, reason) == (415, "unsupported_encoding")
    assert "'br'" in detail


def test_a_body_that_unpacks_beyond_the_bound_is_too_large(client: TestClient) -> None:
    body = gzip.compress(b" " * 50_000_000)
    status, reason, _ = error(client.post("/v1/feedback", content=body, headers={"Content-Encoding": "gzip"}))
    assert (status, reason) == (413, "oversized")


def test_a_report_about_an_image_says_that_it_is_not_trainable(client: TestClient, sqlite_store: Store) -> None:
    parts = ["What is this?", {"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}]
    message = flagged(messages=[{"role": "user", "content": parts}], response=None, reason=None)
    assert client.post("/v1/feedback", content=message.encode()).status_code == 202
    page = client.get(f"/reports/{message.id}").text
    assert "Not trainable here: message 1 holds an image" in page
    assert "What is this?\n[image " in page
    assert "(the answer is empty)" in page
    assert "No reason was given." in page
    assert "no reason was given" in client.get("/reports").text
    [claim] = sqlite_store.reports.claim(owner="me", limit=1, lease_s=60)
    sqlite_store.reports.complete(claim, lesson(message.id))
    said = client.get(f"/v1/feedback/{message.id}").json()["said"]
    assert said == "analysed; not trainable here: message 1 holds an image"
    assert "(the answer is empty)" in client.get("/review").text


def test_a_report_of_a_known_answer_is_told_the_outcome_of_that_answer(client: TestClient, sqlite_store: Store) -> None:
    first = flagged()
    second = flagged(messages=first.messages, response=first.response, reporter="b")
    learn(sqlite_store, first)
    assert client.post("/v1/feedback", content=second.encode()).json()["outcome"] == "duplicate"
    told = client.get(f"/v1/feedback/{second.id}").json()
    assert (told["state"], told["fixed_in_generation"]) == ("duplicate", None)
    same = "counted with another report of the same answer: "
    assert told["said"] == same + "analysed; waiting for the next training run"
    mark(sqlite_store, [first.id], ReportState.RESOLVED, generation=3)
    told = client.get(f"/v1/feedback/{second.id}").json()
    assert (told["said"], told["fixed_in_generation"]) == (same + "fixed in generation 3", 3)
    assert first.id not in str(told)


def test_a_reporter_reads_only_what_it_sent_itself(make_client: Callable[..., TestClient], sqlite_store: Store) -> None:
    client = make_client()
    other = flagged(id="theirs")
    sqlite_store.reports.add([(other, Source(channel="http", principal="another"))], reporter_cap=9)
    client.post("/v1/feedback", content=flagged(id="mine").encode(), headers=bearer(Role.REPORTER))
    client.post("/v1/feedback", content=flagged(id="theirs", response="New.").encode(), headers=bearer(Role.REVIEWER))
    answers = {
        (role, report_id): client.get(f"/v1/feedback/{report_id}", headers=bearer(role))
        for role in (Role.REPORTER, Role.REVIEWER)
        for report_id in ("mine", "theirs")
    }
    assert {key: answer.status_code for key, answer in answers.items()} == {
        (Role.REPORTER, "mine"): 200,
        (Role.REPORTER, "theirs"): 404,
        (Role.REVIEWER, "mine"): 200,
        (Role.REVIEWER, "theirs"): 200,
    }
    assert answers[Role.REVIEWER, "theirs"].json()["id"] == "theirs"


def test_a_report_with_too_much_personal_data_is_refused_with_the_reason(
    make_app: Callable[..., FastAPI],
    sqlite_store: Store,
    make_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detect, "MAX_PLACES", 3)
    sqlite_store.reports._redactor = Redactor(make_config())
    full = flagged(response=" ".join(f"u{number}@example.org" for number in range(4)))
    with TestClient(make_app(), base_url=BASE_URL) as client:
        status, reason, detail = error(client.post("/v1/feedback", content=full.encode()))
    assert (status, reason) == (413, "oversized")
    assert "personal data" in detail
    assert sqlite_store.reports.find() == []


def test_a_principal_without_quota_is_asked_to_come_back(make_app: Callable[..., FastAPI], sqlite_store: Store) -> None:
    app = make_app(intake={"max_reports_per_day": 1})
    with TestClient(app, base_url=BASE_URL) as client:
        kept, refused = flagged(), flagged()
        assert client.post("/v1/feedback", content=kept.encode()).status_code == 202
        answer = client.post("/v1/feedback", content=refused.encode())
        status, reason, detail = error(answer)
        assert (status, reason) == (429, "quota")
        assert "local has no room left in 24 hours: 1 reports" in detail
        assert 0 < int(answer.headers["retry-after"]) <= 3600
        assert client.post("/v1/feedback", content=kept.encode()).json()["outcome"] == "redelivered"
    assert [report.id for report in sqlite_store.reports.find()] == [kept.id]


def test_a_source_of_a_token_or_a_user_is_the_principal_of_its_reports(
    make_app: Callable[..., FastAPI], sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP", "shop-token")
    app = make_app(
        http={
            "host": "0.0.0.0",
            "tokens": [{"name": "ann", "role": "reporter", "token_env": "SHOP"}],
            "proxy": {"addresses": ["192.0.2.7"], "roles": {"staff": "reporter"}},
        },
        intake={"sources": [{"name": "store", "token": "ann"}, {"name": "desk", "user": "eve"}]},
    )
    with TestClient(app, base_url=HOST, client=("192.0.2.7", 4711)) as client:
        callers: list[dict[str, str]] = [
            {"Authorization": "Bearer shop-token"},
            *({"X-Forwarded-User": user, "X-Forwarded-Groups": "staff"} for user in ("ann", "eve", "x" * 300)),
        ]
        for number, headers in enumerate(callers):
            body = flagged(id="same", response=f"Answer {number}.").encode()
            assert client.post("/v1/feedback", content=body, headers=headers).json()["outcome"] == "stored"
            assert client.get("/v1/feedback/same", headers=headers).status_code == 200
    found = sorted(report.source.principal for report in sqlite_store.reports.find())
    assert found[:3] == ["desk", "store", "user:ann"]
    assert found[3].startswith("user:xxx")
    assert len(found[3]) < 200


# --- the short form ---

THUMB = {"id": "thumb", "completion_id": "chatcmpl-1", "rating": "down", "comment": "secret words"}


def test_a_short_form_is_stored_before_its_completion_is_known(
    make_app: Callable[..., FastAPI], sqlite_store: Store
) -> None:
    with TestClient(make_app(serving={"exchanges": {"enabled": True}}), base_url=BASE_URL) as client:
        answer = client.post("/v1/feedback", json=THUMB)
        assert (answer.status_code, answer.json()) == (202, {"id": "thumb", "outcome": "waiting"})
        state = client.get("/v1/feedback/thumb").json()
        assert (state["state"], state["fixed_in_generation"], state["evidence"]) == ("waiting", None, "claimed")
        assert state["said"] == "received; waiting for the servers' record of the completion"
        sqlite_store.signals.give_up(sqlite_store.signals.get("thumb"), Lost.NO_RECORD)
        state = client.get("/v1/feedback/thumb").json()
        assert state["said"] == "not used: no server remembers the completion; send the full form"
        assert client.post("/v1/feedback", json=THUMB).json()["outcome"] == "redelivered"
        unnamed = {name: one for name, one in THUMB.items() if name != "id"}
        ids = {client.post("/v1/feedback", json=unnamed).json()["id"] for _ in range(2)}
        assert len(ids) == 1


def test_a_short_form_needs_servers_that_remember_their_answers(client: TestClient, sqlite_store: Store) -> None:
    status, reason, detail = error(client.post("/v1/feedback", json=THUMB))
    assert (status, reason) == (422, "no_record")
    assert "serving.exchanges" in detail
    assert sum(sqlite_store.signals.counts().values()) == 0


def test_a_whole_thumb_up_needs_no_record_and_is_no_report(client: TestClient, sqlite_store: Store) -> None:
    message = flagged(id="up", rating="up")
    assert client.post("/v1/feedback", content=message.encode()).json()["outcome"] == "kept"
    assert client.get("/v1/feedback/up").json()["said"].startswith("kept: ")
    assert sqlite_store.reports.find() == []


def test_the_state_of_a_short_form_is_told_to_its_sender_and_to_reviewers_without_content(
    make_client: Callable[..., TestClient], sqlite_store: Store
) -> None:
    source = Source(channel="http", principal="a-reporter")
    sqlite_store.reports.add([(decode(json.dumps(THUMB).encode()), source)])
    client = make_client()
    assert client.get("/v1/feedback/thumb", headers=bearer(Role.REPORTER)).json()["state"] == "waiting"
    assert client.get("/v1/feedback/thumb", headers=bearer(Role.REVIEWER)).json()["state"] == "waiting"
    other = Source(channel="http", principal="another")
    sqlite_store.reports.add([(decode(json.dumps({**THUMB, "id": "theirs"}).encode()), other)])
    answer = client.get("/v1/feedback/theirs", headers=bearer(Role.REPORTER))
    assert answer.status_code == 404
    assert "secret words" not in client.get("/v1/feedback/thumb", headers=bearer(Role.REVIEWER)).text


def test_the_api_shows_an_example_of_each_form(client: TestClient) -> None:
    post = client.get("/openapi.json").json()["paths"]["/v1/feedback"]["post"]
    examples = post["requestBody"]["content"]["application/json"]["examples"]
    assert set(examples) == {"thumbs down", "edit", "thumbs up", "full form"}
