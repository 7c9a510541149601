"""Requests refused before routing: large bodies, wrong hosts, cross-site posts, callers without a token."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from daemon.errors import ConfigError
from daemon.store import Store
from daemon.web.guard import Guard
from tests.fixtures.config import flagged
from tests.fixtures.web import BASE_URL, error

TOKEN = "a-good-token"


@pytest.fixture
def guarded(make_app: Callable[..., FastAPI], monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """An app that listens on the network and requires a token."""
    monkeypatch.setenv("ERRATAD_TEST_TOKEN", TOKEN)
    app = make_app(http={"host": "0.0.0.0", "token_env": "ERRATAD_TEST_TOKEN"})
    with TestClient(app, base_url="http://erratad.example") as client:
        yield client


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


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
