"""Sessions of the console: signing in, cookies, forms."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException

from daemon.config.web import HttpConfig, Role
from daemon.store import Store
from daemon.web.access import GUESSES_PER_MINUTE, SESSION_COOKIE
from daemon.web.console.sessions import local
from tests.fixtures.stores import promote
from tests.fixtures.web import TOKENS, access_of, bearer

PROXY = {
    "addresses": ["10.0.0.0/24"],
    "roles": {"everyone": "reviewer", "operators": "operator"},
}


def csrf_of(client: TestClient, path: str = "/") -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(path).text)
    assert found is not None
    return found[1]


def sign_in(client: TestClient, role: Role, **fields: str) -> Any:
    form = {"token": TOKENS[role], "csrf": csrf_of(client, "/login"), **fields}
    return client.post("/login", data=form)


def http(**values: Any) -> HttpConfig:
    return HttpConfig.model_validate(values)


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


def guess(client: TestClient, csrf: str, times: int) -> list[int]:
    return [client.post("/login", data={"token": "guess", "csrf": csrf}).status_code for _ in range(times)]


def test_guessing_is_slowed_down(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    csrf = csrf_of(client, "/login")
    assert guess(client, csrf, 11) == [401] * 10 + [429]
    refused = client.post("/login", data={"token": "guess", "csrf": csrf})
    assert int(refused.headers["retry-after"]) >= 1


def test_a_right_token_gets_in_beside_the_wrong_ones_of_its_proxy(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    assert guess(client, csrf_of(client, "/login"), 20)[-1] == 429
    assert client.get("/api/reports", headers=bearer(Role.REVIEWER)).status_code == 200
    assert sign_in(client, Role.REVIEWER).status_code == 303
    assert client.get("/").status_code == 200


def test_wrong_tokens_of_the_api_count_like_those_of_the_form(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    wrong = {"Authorization": "Bearer guess"}
    answers = [client.get("/api/reports", headers=wrong).status_code for _ in range(11)]
    assert answers == [401] * 10 + [429]
    assert guess(client, csrf_of(client, "/login"), 1) == [429]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.7", "192.0.2.8", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
    ],
)
def test_guesses_are_bounded_for_each_address(
    first: str, second: str, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_ONE", "the-token")
    access = access_of(http(token_env="TEST_ONE"))
    for number in range(GUESSES_PER_MINUTE):
        with suppress(HTTPException):
            access.by_token(f"guess {number}", address=first)
    with pytest.raises(HTTPException):
        access.by_token("the-token", address=first)
    with pytest.raises(HTTPException) if same else nullcontext():
        assert access.by_token("the-token", address=second)


def test_a_form_of_another_site_is_refused_before_its_token_counts(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    csrf = csrf_of(client, "/login")
    for _ in range(30):
        assert guess(client, "forged", 1) == [403]
        foreign = client.post(
            "/login", data={"token": "guess", "csrf": csrf}, headers={"Origin": "http://evil.example"}
        )
        assert foreign.status_code == 403
        assert client.post("/login", data={"token": "guess"}).status_code == 422
    assert guess(client, csrf, 11) == [401] * 10 + [429]
    assert client.post("/login", data={"token": TOKENS[Role.ADMIN], "csrf": "forged"}).status_code == 403
    assert SESSION_COOKIE not in client.cookies


def test_signing_out_ends_the_session_for_a_copy_of_its_cookie(make_client: Callable[..., TestClient]) -> None:
    client = make_client(session_key_env="TEST_KEY")
    sign_in(client, Role.OPERATOR)
    cookie, csrf = client.cookies[SESSION_COOKIE], csrf_of(client)
    assert client.post("/logout", data={"csrf": csrf}).headers["location"] == "/login"
    assert client.get("/").status_code == 303
    for again in (client, make_client(session_key_env="TEST_KEY")):  # the second is another daemon
        again.cookies.set(SESSION_COOKIE, cookie)
        assert again.get("/").status_code == 303
        form = {"intent": "train", "reason": "x", "csrf": csrf}
        assert again.post("/steer", data=form).headers["location"].startswith("/login")


def test_signing_in_again_ends_the_session_before(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    sign_in(client, Role.OPERATOR)
    before = client.cookies[SESSION_COOKIE]
    assert sign_in(client, Role.REVIEWER).status_code == 303
    assert client.get("/").status_code == 200
    client.cookies.clear()
    client.cookies.set(SESSION_COOKIE, before)
    assert client.get("/").status_code == 303


def test_the_other_sessions_of_a_token_go_on_after_a_sign_out(make_client: Callable[..., TestClient]) -> None:
    one = make_client(session_key_env="TEST_KEY")
    other = make_client(session_key_env="TEST_KEY")
    sign_in(one, Role.OPERATOR)
    sign_in(other, Role.OPERATOR)
    one.post("/logout", data={"csrf": csrf_of(one)})
    assert other.get("/").status_code == 200


def test_a_changed_or_removed_token_file_ends_its_sessions_at_once(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("the-token")
    access = access_of(http(tokens=[{"name": "ci", "role": "operator", "token_file": file}]))
    identity = access.by_token("the-token", address=None)
    assert identity is not None
    cookie = access.open_session(identity)
    assert access.by_session(cookie) is not None
    file.write_text("the-next-token")
    assert access.by_session(cookie) is None
    assert access.by_token("the-next-token", address=None) == identity
    file.unlink()
    assert access.by_token("the-next-token", address=None) is None


def test_a_session_is_refused_when_it_is_forged_old_or_its_token_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ONE", "the-token")
    monkeypatch.setenv("TEST_KEY", "a-key")
    config = http(token_env="TEST_ONE", session_key_env="TEST_KEY")
    access = access_of(config)
    identity = access.by_token("the-token", address=None)
    assert identity is not None
    cookie = access.open_session(identity)
    assert (found := access_of(config).by_session(cookie)) is not None
    assert (found.name, found.role) == ("admin", Role.ADMIN)
    assert access.by_session(cookie[:-2] + "xx") is None
    assert access.by_session("") is None
    assert access_of(http(token_env="TEST_ONE")).by_session(cookie) is None, "another key"
    monkeypatch.setenv("TEST_ONE", "a-new-token")
    assert access_of(config).by_session(cookie) is None
    monkeypatch.setenv("TEST_ONE", "the-token")
    brief = access_of(http(token_env="TEST_ONE", session_key_env="TEST_KEY", session_hours=0.0001))
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
