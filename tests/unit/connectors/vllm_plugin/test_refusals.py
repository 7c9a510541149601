"""Requests that vLLM refuses only because of the guidance are counted; the check delays no answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from connectors.vllm_plugin.alias import AliasMiddleware, AliasTable
from connectors.vllm_plugin.inside import ask
from connectors.vllm_plugin.settings import AliasSettings

CHAT = "/v1/chat/completions"
CHECKS = ("/tokenize", "/v1/messages/count_tokens")
GUIDANCE = "Answer carefully."
USER = {"role": "user", "content": "Hello"}


class Server:
    """An app that refuses bodies with a `word`, also in tokenizing; that is `slow` until `free` is set.

    `too_long`: as vLLM does with long prompts: `/tokenize` takes them and tells their length.
    """

    def __init__(
        self, word: str, *, status: int = 400, also_refuses: bool = False, slow: bool = False, too_long: bool = False
    ) -> None:
        self._word, self._status, self._also_refuses, self._slow = word, status, also_refuses, slow
        self._too_long = too_long
        self.free = asyncio.Event()
        self.paths: list[str] = []
        self.models: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        rendered = scope["path"] in CHECKS
        self.paths.append(scope["path"])
        self.models.append(body["model"])
        if rendered and self._slow:
            await self.free.wait()
        unfit = self._word in json.dumps(body) or (self._also_refuses and not rendered)
        told = scope["path"] == "/tokenize" and self._too_long
        status = self._status if unfit and not told else 200
        content = {"count": 100 if unfit else 99, "max_model_len": 100}
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})


async def _asked(
    server: Server, *requests: tuple[str, dict[str, Any]], frees: bool = True
) -> tuple[list[int], dict[str, int]]:
    """The statuses that the client got, and the refusals counted in the end."""
    settings = AliasSettings(alias="aligned", base_name="base", guidance=GUIDANCE, admin_token="t", system_role=True)
    table = AliasTable(settings)
    table.add("aligned-g000001", "/adapters/1")
    table.set_live("aligned-g000001", None)
    middleware = AliasMiddleware(server, table=table)
    scope = {"type": "http", "method": "POST", "path": "", "headers": []}
    replies = [await ask(middleware, scope, path, body) for path, body in requests]
    if frees:
        server.free.set()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)
    return [reply.status for reply in replies], dict(table.traffic.refusals())


def refusals(server: Server, *requests: tuple[str, dict[str, Any]], **options: Any) -> dict[str, int]:
    return asyncio.run(_asked(server, *requests, **options))[1]


CHAT_REQUEST = (CHAT, {"model": "aligned", "messages": [USER]})
REQUESTS = [
    CHAT_REQUEST,
    ("/v1/chat/completions/batch", {"model": "aligned", "messages": [[USER]]}),
    ("/v1/responses", {"model": "aligned", "input": "Hello, how is it?"}),
    ("/v1/messages", {"model": "aligned", "messages": [USER], "max_tokens": 5}),
]


@pytest.mark.parametrize("request_made", REQUESTS, ids=[path for path, _ in REQUESTS])
@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("too_long", [True, False])
def test_a_request_that_would_be_accepted_without_the_guidance_is_counted(
    request_made: tuple[str, dict[str, Any]], status: int, too_long: bool
) -> None:
    server = Server(GUIDANCE, status=status, too_long=too_long)
    assert refusals(server, request_made) == {"aligned-g000001": 1}
    assert set(server.models[1:]) == {"base"}  # its adapter may be unloaded meanwhile
    assert set(server.paths[1:]) <= set(CHECKS)


def test_a_request_that_is_refused_either_way_is_not_counted() -> None:
    assert refusals(Server("Hello"), CHAT_REQUEST) == {}


def test_a_request_that_is_refused_for_another_reason_is_not_counted() -> None:
    """Its prompt can be made with the guidance, too."""
    server = Server("nothing", also_refuses=True)
    assert refusals(server, CHAT_REQUEST) == {}
    assert server.paths == [CHAT, "/tokenize", "/tokenize"]


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_other_answers_are_not_checked(status: int) -> None:
    server = Server(GUIDANCE, status=status)
    assert refusals(server, CHAT_REQUEST) == {}
    assert server.paths == [CHAT]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": "aligned-g000001", "messages": [{"role": "user", "content": "Hello"}]}),
        (CHAT, {"model": "aligned", "messages": [], "x": "Hello"}),
        ("/v1/responses", {"model": "aligned", "x": "Hello"}),
        ("/v1/messages/count_tokens", {"model": "aligned", "messages": [USER]}),
    ],
    ids=["by name", "no conversation", "no input", "no answer"],
)
def test_requests_without_guidance_or_answer_are_not_checked(path: str, body: dict[str, Any]) -> None:
    server = Server("Hello")
    assert refusals(server, (path, body)) == {}
    assert server.paths == [path]


def test_answers_do_not_wait_for_a_check_and_one_runs_at_a_time() -> None:
    server = Server(GUIDANCE, slow=True)
    statuses, counted = asyncio.run(_asked(server, *[CHAT_REQUEST] * 5))
    assert statuses == [400] * 5
    assert counted == {"aligned-g000001": 1}
    assert server.paths.count(CHAT) == 5
    assert server.paths.count("/tokenize") == 2


def test_a_check_that_takes_too_long_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.vllm_plugin.refusals.TIMEOUT_S", 0.01)
    assert refusals(Server(GUIDANCE, slow=True), CHAT_REQUEST, frees=False) == {}
