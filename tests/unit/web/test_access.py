"""Access to the HTTP API and the console: tokens with roles, a trusted proxy, sessions, forms and rate limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError

from daemon.config import Config
from daemon.config.web import HttpConfig, Role
from daemon.errors import ConfigError
from daemon.intake.stage import FeedbackIntake
from daemon.operations.preflight import problems
from daemon.store import Store
from daemon.web import rate_limit
from daemon.web.access import SESSION_COOKIE, Access, Identity
from daemon.web.app import create_app
from daemon.web.console.sessions import local
from daemon.web.rate_limit import RateLimit
from tests.fixtures.config import flagged
from tests.fixtures.stores import promote

HOST = "http://erratad.example"
TOKENS = {role: f"{role}-token" for role in Role}
PROXY = {
    "addresses": ["10.0.0.0/24"],
    "roles": {"everyone": "reviewer", "operators": "operator"},
}


@pytest.fixture
def make_client(
    sqlite_store: Store, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., TestClient]]:
    """Clients of an app that listens on the network. `peer` is the source address of their requests."""
    for role, token in TOKENS.items():
        monkeypatch.setenv(f"TEST_{role.upper()}", token)
    opened: list[TestClient] = []

    def make(*, peer: str = "192.0.2.7", url: str = HOST, **http: Any) -> TestClient:
        tokens = [{"name": f"a-{role}", "role": role, "token_env": f"TEST_{role.upper()}"} for role in Role]
        config = make_config(http={"host": "0.0.0.0", "tokens": tokens, **http})
        intake = FeedbackIntake(reports=sqlite_store.reports, config=config.intake)
        health: Any = None  # unused here
        app: FastAPI = create_app(store=sqlite_store, intake=intake, config=config, health=health)
        opened.append(TestClient(app, base_url=url, client=(peer, 4711), follow_redirects=False))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


def bearer(role: Role) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[role]}"}


def csrf_of(client: TestClient, path: str = "/") -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(path).text)
    assert found is not None
    return found[1]


def sign_in(client: TestClient, role: Role, **fields: str) -> Any:
    form = {"token": TOKENS[role], "csrf": csrf_of(client, "/login"), **fields}
    return client.post("/login", data=form)


# --- roles ---


NEEDS: list[tuple[str, str, Any, Role]] = [
    ("GET", "/v1/feedback/schema", None, Role.REPORTER),
    ("GET", "/api/reports", None, Role.REVIEWER),
    ("GET", "/api/reviews", None, Role.REVIEWER),
    ("POST", "/api/accept", {"report_id": "no-such-id"}, Role.REVIEWER),
    ("POST", "/api/bury", {"report_id": "no-such-id"}, Role.REVIEWER),
    ("POST", "/api/requeue", {"report_id": "no-such-id"}, Role.REVIEWER),
    ("POST", "/api/correct", {"report_id": "no-such-id", "analysis": "Words."}, Role.REVIEWER),
    ("GET", "/api/audit", None, Role.OPERATOR),
    ("POST", "/api/train", {}, Role.OPERATOR),
    ("POST", "/api/induce", {}, Role.OPERATOR),
    ("POST", "/api/promote", {"generation": 0}, Role.OPERATOR),
    ("POST", "/api/reject", {"generation": 0}, Role.OPERATOR),
    ("POST", "/api/rollback", {}, Role.OPERATOR),
    ("POST", "/api/pause", {}, Role.OPERATOR),
    ("POST", "/api/resume", {}, Role.OPERATOR),
    ("POST", "/api/erase", {"report_id": "no-such-id"}, Role.ADMIN),
]


def test_each_call_needs_its_role(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    for method, path, body, needed in NEEDS:
        for role in Role:
            answer = client.request(method, path, json=body, headers=bearer(role))
            if role.covers(needed):
                assert answer.status_code not in {401, 403}, (path, role)
            else:
                assert (answer.status_code, answer.json()["error"]["reason"]) == (403, "forbidden"), (path, role)
                assert needed in answer.json()["error"]["detail"]
        assert client.request(method, path, json=body).status_code == 401, path


def test_every_operation_of_the_api_is_in_the_table_of_roles(make_client: Callable[..., TestClient]) -> None:
    spec = make_client().get("/openapi.json").json()["paths"]
    writing = {(verb.upper(), path) for path, verbs in spec.items() for verb in verbs if verb != "get"}
    assert writing - {("POST", "/v1/feedback")} == {(m, path) for m, path, _, _ in NEEDS if m == "POST"}


def test_the_audit_log_names_the_token_and_for_whom_it_acted(
    make_client: Callable[..., TestClient], sqlite_store: Store
) -> None:
    client = make_client()
    client.post("/api/pause", json={"reason": "freeze"}, headers=bearer(Role.OPERATOR))
    client.post("/api/resume", json={}, headers={**bearer(Role.ADMIN), "X-Erratad-Actor": "ann"})
    assert [entry.actor for entry in sqlite_store.audit.entries()] == ["a-admin for ann", "a-operator"]


# --- tokens ---


def http(**values: Any) -> HttpConfig:
    return HttpConfig.model_validate(values)


def test_a_token_can_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    access = Access.of(http(tokens=[{"name": "ci", "role": "operator", "token_file": file}]))
    assert access.by_token("from-a-file") == Identity(name="ci", role=Role.OPERATOR)
    assert access.by_token("from-a-file\n") is None
    assert access.by_token("") is None


def test_the_short_form_is_an_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ONE", "the-token")
    identity = Access.of(http(token_env="TEST_ONE")).by_token("the-token")
    assert identity == Identity(name="admin", role=Role.ADMIN)


@pytest.mark.parametrize("content", [b"", b"\n", "schlüssel".encode(), b"two\nlines"])
def test_a_token_that_no_header_can_carry_ends_the_start(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"'ci'.*ASCII"):
        Access.of(http(tokens=[{"name": "ci", "role": "operator", "token_file": file}]))


def test_two_names_for_one_token_end_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ONE", "the-token")
    tokens = [{"name": name, "role": "operator", "token_env": "TEST_ONE"} for name in ("ann", "bob")]
    with pytest.raises(ConfigError, match="'ann' and 'bob'"):
        Access.of(http(tokens=tokens))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"host": "0.0.0.0"}, "tokens or proxy"),
        ({"tokens": [{"name": "x", "role": "operator"}]}, "token_env or token_file"),
        ({"tokens": [{"name": "x", "role": "boss", "token_env": "A"}]}, "role"),
        ({"tokens": [{"name": "x y", "role": "admin", "token_env": "A"}]}, "name"),
        ({"token_env": "A", "tokens": [{"name": "admin", "role": "admin", "token_env": "B"}]}, "'admin'"),
        ({"proxy": {"addresses": ["proxy.local"], "roles": {"a": "admin"}}}, "addresses"),
        ({"proxy": {"addresses": ["10.0.0.1"], "roles": {}}}, "roles"),
    ],
)
def test_a_wrong_section_names_its_key(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        http(**values)


def test_check_config_names_a_token_that_cannot_be_had(make_config: Callable[..., Config]) -> None:
    tokens = [
        {"name": "a", "role": "admin", "token_env": "ERRATAD_TEST_UNSET"},
        {"name": "b", "role": "admin", "token_file": "/nonexistent/token"},
    ]
    found = problems(make_config(http={"tokens": tokens}))
    assert any(one.startswith("http.tokens.0.token_env: environment variable ERRATAD_TEST_UNSET") for one in found)
    assert any(one.startswith("http.tokens.1.token_file: /nonexistent/token") for one in found)


# --- a proxy that signs people in ---


USER = {"X-Forwarded-User": "ann@example.org", "X-Forwarded-Groups": "everyone, operators"}


def test_a_trusted_proxy_names_the_user_and_the_groups_give_the_role(
    make_client: Callable[..., TestClient], sqlite_store: Store
) -> None:
    client = make_client(peer="10.0.0.9", tokens=[], proxy=PROXY)
    assert client.post("/api/pause", json={}, headers=USER).status_code == 200
    assert sqlite_store.audit.entries()[0].actor == "ann@example.org"
    page = client.get("/", headers=USER)
    assert page.status_code == 200
    assert "ann@example.org" in page.text
    reviewer = {**USER, "X-Forwarded-Groups": "everyone"}
    assert client.post("/api/pause", json={}, headers=reviewer).status_code == 403


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("10.0.1.9", USER),
        ("192.0.2.7", {**USER, "X-Forwarded-For": "10.0.0.9"}),
        ("10.0.0.9", {"X-Forwarded-Groups": "operators"}),
        ("10.0.0.9", {**USER, "X-Forwarded-Groups": "strangers"}),
    ],
)
def test_headers_from_elsewhere_and_users_without_a_role_are_refused(
    make_client: Callable[..., TestClient], peer: str, headers: dict[str, str]
) -> None:
    client = make_client(peer=peer, tokens=[], proxy=PROXY)
    assert client.get("/api/status", headers=headers).status_code == 401
    assert client.get("/", headers=headers).status_code == 403


# --- the console's sessions ---


def test_without_a_session_a_browser_is_asked_to_sign_in_and_comes_back(
    make_client: Callable[..., TestClient],
) -> None:
    client = make_client()
    asked = client.get("/reports?state=buried")
    assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=%2Freports%3Fstate%3Dburied")
    entered = sign_in(client, Role.REVIEWER, next="/reports?state=buried")
    assert (entered.status_code, entered.headers["location"]) == (303, "/reports?state=buried")
    page = client.get("/reports")
    assert page.status_code == 200
    assert "a-reviewer" in page.text


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(make_client: Callable[..., TestClient]) -> None:
    plain = sign_in(make_client(), Role.ADMIN).headers["set-cookie"]
    assert "HttpOnly" in plain
    assert "SameSite=strict" in plain
    assert "Secure" not in plain
    secure = sign_in(make_client(url="https://erratad.example"), Role.ADMIN).headers["set-cookie"]
    assert "Secure" in secure


def test_behind_a_proxy_that_ends_tls_the_cookie_is_secure(make_client: Callable[..., TestClient]) -> None:
    for peer, expected in (("10.0.0.9", True), ("192.0.2.7", False)):
        client = make_client(peer=peer, proxy=PROXY)
        client.headers["X-Forwarded-Proto"] = "https"
        assert ("Secure" in sign_in(client, Role.ADMIN).headers["set-cookie"]) is expected


def test_a_wrong_token_and_a_reporters_open_no_session(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    wrong = client.post("/login", data={"token": "guess", "csrf": csrf_of(client, "/login")})
    assert wrong.status_code == 401
    assert sign_in(client, Role.REPORTER).status_code == 403
    assert SESSION_COOKIE not in client.cookies


def test_guessing_is_slowed_down(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    form = {"token": "guess", "csrf": csrf_of(client, "/login")}
    answers = [client.post("/login", data=form) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_signing_out_ends_the_session(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    sign_in(client, Role.OPERATOR)
    assert client.post("/logout", data={"csrf": csrf_of(client)}).headers["location"] == "/login"
    assert client.get("/").status_code == 303


def test_a_session_is_refused_when_it_is_forged_old_or_its_token_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ONE", "the-token")
    monkeypatch.setenv("TEST_KEY", "a-key")
    config = http(token_env="TEST_ONE", session_key_env="TEST_KEY")
    access = Access.of(config)
    identity = access.by_token("the-token")
    assert identity is not None
    cookie = access.open_session(identity)
    assert (found := Access.of(config).by_session(cookie)) is not None
    assert (found.name, found.role) == ("admin", Role.ADMIN)
    assert access.by_session(cookie[:-2] + "xx") is None
    assert access.by_session("") is None
    assert Access.of(http(token_env="TEST_ONE")).by_session(cookie) is None, "another key"
    monkeypatch.setenv("TEST_ONE", "a-new-token")
    assert Access.of(config).by_session(cookie) is None
    monkeypatch.setenv("TEST_ONE", "the-token")
    brief = Access.of(http(token_env="TEST_ONE", session_key_env="TEST_KEY", session_hours=0.0001))
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: 4_000_000_000)
    assert brief.by_session(cookie) is None


def test_a_form_needs_the_token_of_its_own_session(make_client: Callable[..., TestClient], sqlite_store: Store) -> None:
    promote(sqlite_store)
    ann, eve = make_client(), make_client()
    sign_in(ann, Role.OPERATOR)
    sign_in(eve, Role.OPERATOR)
    form = {"intent": "rollback", "reason": "worse", "back": "/adapters"}
    for csrf in (csrf_of(eve), "", "forged"):
        assert ann.post("/steer", data={**form, "csrf": csrf}).status_code in {403, 422}
    assert ann.post("/steer", data=form).status_code == 422
    assert sqlite_store.audit.entries()[0].action == "promoted"
    done = ann.post("/steer", data={**form, "csrf": csrf_of(ann)})
    assert (done.status_code, done.headers["location"]) == (303, "/adapters?did=rollback")
    assert (sqlite_store.audit.entries()[0].actor, sqlite_store.audit.entries()[0].reason) == ("a-operator", "worse")


def test_forms_need_their_role_too(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    sign_in(client, Role.REVIEWER)
    csrf = csrf_of(client)
    assert client.post("/steer", data={"intent": "train", "reason": "x", "csrf": csrf}).status_code == 403
    assert client.post("/erase", data={"report_id": "x", "reason": "x", "csrf": csrf}).status_code == 403
    assert client.get("/settings").status_code == 403
    assert client.get("/audit").status_code == 403
    assert client.get("/review").status_code == 200


@pytest.mark.parametrize(
    ("target", "goes"),
    [
        ("/reports?a=b", "/reports?a=b"),
        ("//evil.example/", "/"),
        ("https://evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("reports", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ("http://[", "/"),
    ],
)
def test_after_a_form_the_browser_stays_here(target: str, goes: str) -> None:
    assert local(target) == goes


# --- rate limits ---


def test_a_caller_who_reports_too_often_is_asked_to_wait(make_client: Callable[..., TestClient]) -> None:
    client = make_client(feedback_per_minute=2)

    def send(role: Role) -> Any:
        return client.post("/v1/feedback", content=flagged().encode(), headers=bearer(role))

    assert [send(Role.REPORTER).status_code for _ in range(3)] == [202, 202, 429]
    refused = send(Role.REPORTER)
    assert refused.json()["error"]["reason"] == "too_many_requests"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert send(Role.ADMIN).status_code == 202, "another caller's bucket"


def test_a_bucket_fills_again_with_time() -> None:
    clock = [0.0]
    limit = RateLimit(60, clock=lambda: clock[0])
    assert [limit.wait_s("a") for _ in range(60)] == [0.0] * 60
    assert limit.wait_s("a") == pytest.approx(1.0)
    clock[0] += 1.0
    assert limit.wait_s("a") == 0.0
    assert limit.wait_s("a") > 0.0
    clock[0] += 3600
    assert sum(limit.wait_s("a") == 0.0 for _ in range(100)) == 60


def test_many_callers_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_CALLERS", 5)
    limit = RateLimit(1, clock=lambda: 0.0)
    for number in range(50):
        limit.wait_s(f"caller {number}")
    assert len(limit._buckets) == 5
    assert limit.wait_s("caller 49") > 0.0
