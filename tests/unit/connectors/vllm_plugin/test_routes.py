"""The open routes of a vLLM server: the list is closed around every route that it does not name."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from starlette._utils import get_route_path
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from connectors.vllm_plugin.admin import guard
from connectors.vllm_plugin.alias import AliasTable
from connectors.vllm_plugin.routes import ADMIN_ROUTES, OPEN_ROUTES, RouteGate, open_routes, route_path
from connectors.vllm_plugin.settings import AliasSettings
from connectors.vllm_wire import ADMIN_HEADER
from tests.fixtures.vllm_source import VllmSource

TOKEN = "the-token"
VLLM_ROUTES = (Path(__file__).parents[3] / "fixtures" / "vllm_routes.txt").read_text().split()
"""Every path that vLLM 0.32 may register."""
FRAMEWORK = ["/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc", "/static/x.js", "/adapters", "/adapters/x"]
OPEN = {
    "/v1/responses/{response_id}": "/v1/responses/resp_1",
    "/v1/responses/{response_id}/cancel": "/v1/responses/resp_1/cancel",
}
"""An address of each route with a parameter."""
CLOSED = sorted({*VLLM_ROUTES, *FRAMEWORK} - set(OPEN_ROUTES) - OPEN.keys())


async def reached(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers every path, as a catch-all mount would."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "reached"})
        await send({"type": "websocket.close"})
    else:
        await PlainTextResponse("reached")(scope, receive, send)


def client(**options: Any) -> TestClient:
    return TestClient(RouteGate(reached, token=TOKEN, **options))


def status(path: str, *, method: str = "POST", headers: list[tuple[bytes, bytes]] | None = None, root: str = "") -> int:
    """Status of a request with this decoded path, as an ASGI server hands it over."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": root, "headers": headers or []}
    asyncio.run(RouteGate(reached, token=TOKEN)(scope, receive, send))
    return int(sent[0]["status"])


def test_the_installed_vllm_has_the_routes_that_were_looked_at() -> None:
    """A new route is closed. Decide whether backends need it, then write it into vllm_routes.txt."""
    assert VllmSource.installed().routes() == set(VLLM_ROUTES)


@pytest.mark.parametrize("path", [*(set(VLLM_ROUTES) & set(OPEN_ROUTES)), *OPEN.values()])
def test_what_backends_and_probes_need_is_open(path: str) -> None:
    assert status(path) == status(path, method="GET") == 200


@pytest.mark.parametrize("path", CLOSED)
def test_every_other_route_of_vllm_is_not_found_with_and_without_a_key(path: str) -> None:
    key = [(b"authorization", b"Bearer the-api-key")]
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert status(path, method=method) == status(path, method=method, headers=key) == 404


@pytest.mark.parametrize(
    "path",
    [
        *("//tokenize", "/tokenize/", "/tokenize//", "/./tokenize", "/v1/../tokenize", "/v1/models/../../tokenize"),
        *(
            "/TOKENIZE",
            "/tokenize\n",
            "/tokenize\0",
            "/tokenize;x",
            "/tokenize?",
            "/tokenize#",
            " /tokenize",
            "tokenize",
        ),
        *("/v1/models/", "//v1/models", "/v1/models\n", "/v1/models/x", "/v1/chat/completions/render", "/v1", "/", ""),
        *("/metrics/", "/metrics/x", "/metricsx", "/health/metrics", "/v1/responses/render", "/v1/responses/resp_1/x"),
        *(
            "/v1/responses/resp_/../render",
            "/v1/responses/resp_1/cancel/",
            "/erratad/v1",
            "/erratad/v2/state",
            "/erratad",
        ),
    ],
)
def test_another_spelling_is_another_path(path: str) -> None:
    assert status(path) == 404


@pytest.mark.parametrize(
    "sent", ["/%74okenize", "//tokenize", "/tokenize/", "/v1/%2e%2e/tokenize", "/v1/models/..%2f..%2ftokenize"]
)
def test_an_encoded_address_opens_nothing(sent: str) -> None:
    assert client().post(sent).status_code == 404


@pytest.mark.parametrize("root", ["", "/api", "/api/", "/tokenize", "/v1", "/v"])
@pytest.mark.parametrize(
    "path", [*CLOSED[:5], "/tokenize", "/api/tokenize", "/apitokenize", "/v1/tokenize", "/v1/v1/models"]
)
def test_a_root_path_opens_nothing(root: str, path: str) -> None:
    if status(path, root=root) == 200:
        assert get_route_path({"type": "http", "path": path, "root_path": root}) in OPEN_ROUTES


@given(st.text("/av1"), st.text("/av1"))
def test_the_gate_reads_a_path_as_the_router_does(path: str, root: str) -> None:
    scope = {"type": "http", "path": path, "root_path": root}
    assert route_path(scope) == get_route_path(scope)


def test_under_a_root_path_the_list_holds_without_it() -> None:
    assert status("/api/v1/models", root="/api") == 200
    assert status("/api/tokenize", root="/api") == 404


@pytest.mark.parametrize("path", sorted(ADMIN_ROUTES))
def test_the_admin_token_opens_what_the_daemon_needs(path: str) -> None:
    own, bearer = (ADMIN_HEADER.encode(), TOKEN.encode()), (b"authorization", f"Bearer {TOKEN}".encode())
    key = (b"authorization", b"Bearer the-api-key")
    assert [status(path, headers=given) for given in ([own], [bearer], [key, own])] == [200, 200, 200]
    wrong = [(own[0], b"the-tokem"), (own[0], b""), (own[0], b"Bearer the-token"), (bearer[0], b"the-token"), key]
    assert {status(path, headers=[one]) for one in wrong} == {404}


@pytest.mark.parametrize("path", sorted(set(CLOSED) - ADMIN_ROUTES))
def test_the_admin_token_opens_no_other_route(path: str) -> None:
    assert status(path, headers=[(ADMIN_HEADER.encode(), TOKEN.encode())]) == 404


def test_the_admin_routes_are_left_to_their_own_check() -> None:
    assert status("/erratad/v1/ready", method="GET") == status("/erratad/v1/state") == 200


def test_a_refusal_says_what_opens_the_route() -> None:
    answer = client().post("/tokenize")
    assert answer.json()["error"]["message"] == (
        "/tokenize needs the admin token (x-erratad-admin-token); "
        "serving.open_routes (ERRATAD_OPEN_ROUTES) opens further routes"
    )
    assert "/load is not open on this server; serving.open_routes" in client().get("/load").text
    never = client().post("/v1/load_lora_adapter").json()["error"]["message"]
    assert never == "/v1/load_lora_adapter is not open on this server"
    assert len(client().get(f"/{'x' * 5000}").text) < 400


def test_configured_routes_are_open() -> None:
    opened = client(also_open=open_routes("/metrics, /v1/items/{id}/x  /load"))
    for path, expected in [("/metrics", 200), ("/load", 200), ("/v1/items/a/x", 200), ("/v1/items/a/b/x", 404)]:
        assert opened.get(path).status_code == expected
    assert opened.get("/metrics/x").status_code == 404
    assert opened.get("/v1/itemsXaXx").status_code == 404


@pytest.mark.parametrize("entry", ["/v1/load_lora_adapter", "/invocations", "/adapters", "/adapters/x"])
def test_the_ways_around_the_alias_cannot_be_opened(entry: str) -> None:
    with pytest.raises(ValueError, match=f"{entry} cannot be opened"):
        open_routes(entry)
    every = client(also_open=open_routes("/{a} /{a}/{b}"))
    assert every.post(entry, headers={ADMIN_HEADER: TOKEN}).status_code == 404
    assert every.post("/anything").status_code == 200


@pytest.mark.parametrize(
    "entry", ["metrics", "/metrics/", "//metrics", "/v1/*", "/", "/a?b", "http://x/metrics", "/{a/b}"]
)
def test_an_entry_that_is_no_path_stops_the_start(entry: str) -> None:
    with pytest.raises(ValueError, match=r"ERRATAD_OPEN_ROUTES: .* is no path"):
        open_routes(entry)


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_without_entries_nothing_more_is_open(text: str) -> None:
    assert open_routes(text) == ()


def test_a_closed_websocket_is_refused() -> None:
    with pytest.raises(WebSocketDisconnect), client().websocket_connect("/v1/realtime"):
        pass
    opened = client(also_open=("/v1/realtime",))
    with opened.websocket_connect("/v1/realtime") as socket:
        assert socket.receive_text() == "reached"
    named = client(also_open=("/v1/realtime",), raw_names=False)
    with pytest.raises(WebSocketDisconnect), named.websocket_connect("/v1/realtime"):
        pass
    with named.websocket_connect("/v1/realtime", headers={ADMIN_HEADER: TOKEN}) as socket:
        assert socket.receive_text() == "reached"


@pytest.mark.parametrize(
    ("extensions", "first"),
    [({}, "websocket.close"), ({"websocket.http.response": {}}, "websocket.http.response.start")],
)
def test_a_websocket_gets_no_connection_whatever_the_server_can_do(extensions: dict[str, Any], first: str) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": [], "extensions": extensions}
    asyncio.run(RouteGate(reached, token=TOKEN)(scope, receive, send))
    assert sent[0]["type"] == first
    assert sent[0].get("status", 404) == 404


@pytest.mark.parametrize("built", [False, True])
def test_the_gate_is_outside_of_all_middleware_and_the_app_starts_behind_it(built: bool) -> None:
    seen: list[str] = []
    app = FastAPI(on_startup=[lambda: seen.append("started")])

    @app.middleware("http")
    async def authenticates(request: Any, _go_on: Any) -> Any:
        seen.append(request.url.path)
        return PlainTextResponse("no key", status_code=401)

    app.middleware_stack = app.build_middleware_stack() if built else None
    guard(app, AliasTable(AliasSettings(alias="aligned", base_name="base", guidance="", admin_token=TOKEN)))
    with TestClient(app) as http:
        assert (http.post("/v1/embeddings").status_code, http.post("/v1/completions").status_code) == (404, 401)
    assert seen == ["started", "/v1/completions"]


def test_a_refusal_is_an_error_as_openai_writes_it() -> None:
    assert json.loads(client().get("/docs").text)["error"]["code"] == 404


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("aligned-g000017", 17),
        ("aligned-g000017-s75", 17),
        ("aligned-g000017-s7", None),
        ("aligned-g000017-s100", None),
        ("aligned-g17", None),
    ],
)
def test_a_strength_is_part_of_a_generations_name(name: str, generation: int | None) -> None:
    settings = AliasSettings(alias="aligned", base_name="base", guidance="", admin_token=TOKEN)
    assert settings.generation(name) == generation
