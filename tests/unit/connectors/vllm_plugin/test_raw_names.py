"""Raw names (the base model, generations) that are closed to clients, and open to the daemon."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from connectors.vllm import VllmServer
from connectors.vllm_plugin.settings import AliasSettings
from tests.fakes.vllm import FakeVllm

LIVE = "aligned-g000000"
ASK = [{"role": "user", "content": "Hello"}]
CHAT = {"messages": ASK, "max_tokens": 2}


@pytest.fixture(scope="module")
def server() -> Iterator[FakeVllm]:
    """Raw names are closed, the base model is live, and no API key is asked for."""
    with FakeVllm(raw_names=False, open_routes=("/tokenize",)) as fake:
        admin = VllmServer(fake.url, admin_token=fake.settings.admin_token)
        admin.set_live(LIVE, expected=None)
        admin.close()
        yield fake


def _post(server: FakeVllm, body: Any, path: str = "/v1/chat/completions", **options: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", content=body if isinstance(body, bytes) else json.dumps(body), **options)


def test_the_alias_is_answered(server: FakeVllm) -> None:
    assert _post(server, {"model": "aligned", **CHAT}).json()["model"] == LIVE


@pytest.mark.parametrize(
    "body",
    [
        *(
            {"model": model, **CHAT}
            for model in ("base", LIVE, "aligned-g000001", "other", "", None, 5, ["aligned"], " aligned")
        ),
        CHAT,
        {"Model": "aligned", **CHAT},
        [{"model": "aligned", **CHAT}],
        b'{"model": "\\u0062ase", "messages": [{"role": "user", "content": "aligned"}]}',
        b'{"model": "aligned", "messages": [], "model": "base"}',
        json.dumps({"model": "base", **CHAT}).encode("utf-16"),
        json.dumps({"model": "base", **CHAT}).encode("utf-8-sig"),
        b"model=base&messages=aligned",
        b'{"model": "base"',
        b"[" * 100_000,
        b"\xff",
        b" ",
    ],
    ids=lambda body: repr(body)[:50],
)
def test_no_other_model_is_open_to_clients(server: FakeVllm, body: Any) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize"):
        answer = _post(server, body, path)
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            404,
            "set model to 'aligned' in a JSON body: no other model is open to clients of this server",
        )


def test_another_spelling_of_the_alias_is_not_answered_as_the_base_model(server: FakeVllm) -> None:
    before = len(server.requests)
    for body in (
        b'{"model": "\\u0061ligned", "messages": []}',
        json.dumps({"model": "aligned", **CHAT}).encode("utf-16"),
    ):
        assert _post(server, body).status_code == 404
    assert len(server.requests) == before


def test_a_post_without_a_body_is_left_to_vllm(server: FakeVllm) -> None:
    assert _post(server, b"", "/health").status_code == 405


def test_the_daemon_asks_for_raw_names_with_its_token(server: FakeVllm, make_client: Callable[..., VllmServer]) -> None:
    daemon = make_client(server.url)
    assert daemon.chat("base", ASK, max_tokens=2).model == "base"
    assert daemon.chat(LIVE, ASK, max_tokens=2).model == LIVE
    assert daemon.score("base", ASK, "Hi").tokens == 2
    stranger = make_client(server.url, admin_token="another")
    with pytest.raises(Exception, match="no other model is open"):
        stranger.chat("base", ASK, max_tokens=2)


def test_raw_names_are_open_by_default() -> None:
    environ = {"ERRATAD_ALIAS": "aligned", "ERRATAD_BASE_NAME": "base", "ERRATAD_ADMIN_TOKEN": "t"}
    for value, expected in (("", True), ("open", True), ("closed", False)):
        assert AliasSettings.from_environment({**environ, "ERRATAD_RAW_NAMES": value}).raw_names is expected
    with pytest.raises(ValueError, match="ERRATAD_RAW_NAMES is 'no'; set one of open, closed"):
        AliasSettings.from_environment({**environ, "ERRATAD_RAW_NAMES": "no"})
    settings = AliasSettings.from_environment({**environ, "ERRATAD_OPEN_ROUTES": "/metrics,/load"})
    assert settings.open_routes == ("/metrics", "/load")
