"""Access: tokens with roles, and a trusted proxy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from daemon.config import Config
from daemon.config.web import HttpConfig, Role
from daemon.errors import ConfigError
from daemon.operations.preflight import problems
from daemon.store import Store
from daemon.web.access import Identity
from tests.fixtures.web import access_of, bearer

PROXY = {
    "addresses": ["10.0.0.0/24"],
    "roles": {"everyone": "reviewer", "operators": "operator"},
}


NEEDS: list[tuple[str, str, Any, Role]] = [
    ("GET", "/v1/feedback/schema", None, Role.REPORTER),
    ("POST", "/v1/feedback/open-webui", [], Role.REPORTER),
    ("POST", "/v1/feedback/langfuse", [], Role.REPORTER),
    ("POST", "/v1/logs", {}, Role.REPORTER),
    ("GET", "/api/reports", None, Role.REVIEWER),
    ("GET", "/api/reviews", None, Role.REVIEWER),
    ("GET", "/api/export?format=csv", None, Role.REVIEWER),
    ("GET", "/api/lessons", None, Role.REVIEWER),
    ("GET", "/api/certificate-key", None, Role.OPERATOR),
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
    ("POST", "/api/approve", {"generation": 1, "reason": "forged flags"}, Role.ADMIN),
    ("POST", "/api/pause", {}, Role.OPERATOR),
    ("POST", "/api/resume", {}, Role.OPERATOR),
    ("POST", "/api/evidence", {"report_id": "no-such-id"}, Role.OPERATOR),
    ("POST", "/api/original", {"report_id": "no-such-id", "reason": "a dispute"}, Role.ADMIN),
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


def http(**values: Any) -> HttpConfig:
    return HttpConfig.model_validate(values)


def test_a_token_can_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    access = access_of(http(tokens=[{"name": "ci", "role": "operator", "token_file": file}]))
    assert access.by_token("from-a-file", address=None) == Identity(name="ci", role=Role.OPERATOR)
    assert access.by_token("from-a-file\n", address=None) is None
    assert access.by_token("", address=None) is None


def test_the_short_form_is_an_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ONE", "the-token")
    identity = access_of(http(token_env="TEST_ONE")).by_token("the-token", address=None)
    assert identity == Identity(name="admin", role=Role.ADMIN)


@pytest.mark.parametrize("content", [b"", b"\n", "schlüssel".encode(), b"two\nlines"])
def test_a_token_that_no_header_can_carry_ends_the_start(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"'ci'.*ASCII"):
        access_of(http(tokens=[{"name": "ci", "role": "operator", "token_file": file}]))


def test_two_names_for_one_token_end_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ONE", "the-token")
    tokens = [{"name": name, "role": "operator", "token_env": "TEST_ONE"} for name in ("ann", "bob")]
    with pytest.raises(ConfigError, match="'ann' and 'bob'"):
        access_of(http(tokens=tokens))


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
