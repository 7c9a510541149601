"""How the chat client handles answers and failures of an endpoint."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from connectors.chat import KEEPALIVE_S, PLAIN, ChatEndpoint, Dialect, EndpointError, Reply
from connectors.vllm import VllmServer
from daemon.chat.preparation import Preparation
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm

MESSAGES = [{"role": "user", "content": "Hello"}]
ANSWER: dict[str, Any] = {
    "model": "someone",
    "choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"completion_tokens": 2},
}


class _Shouts:
    """A dialect that shows where it was used."""

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{**message, "content": message["content"].upper()} for message in messages]

    def reply(self, text: str) -> tuple[str, str]:
        thoughts, _, answer = text.rpartition("|")
        return thoughts, answer

    def written(self, text: str) -> str:
        return text


def _endpoint(
    handle: Callable[[httpx.Request], httpx.Response], url: str = "http://endpoint", dialect: Dialect = PLAIN
) -> ChatEndpoint:
    endpoint = ChatEndpoint(url, api_key="key", dialect=dialect)
    endpoint._client._transport = httpx.MockTransport(handle)
    endpoint._client._mounts = {}
    return endpoint


def _failure(handle: Callable[[httpx.Request], httpx.Response]) -> EndpointError:
    endpoint = _endpoint(handle)
    with pytest.raises(EndpointError) as caught:
        endpoint.chat("someone", MESSAGES, max_tokens=4)
    endpoint.close()
    return caught.value


@pytest.mark.parametrize("url", ["http://endpoint", "http://endpoint/", "http://endpoint/v1", "http://endpoint/v1/"])
def test_a_request_reaches_the_chat_route_with_its_key(url: str) -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=ANSWER)

    reply = _endpoint(handle, url).chat("someone", MESSAGES, max_tokens=4, seed=7)
    assert reply == Reply(text="Hi", model="someone", generation=None, finish_reason="stop", completion_tokens=2)
    assert str(seen[0].url) == "http://endpoint/v1/chat/completions"
    assert seen[0].headers["authorization"] == "Bearer key"
    assert b'"seed":7' in seen[0].content


def test_an_answer_without_text_or_usage_is_an_empty_reply() -> None:
    answer = {"model": "m", "choices": [{"message": {"content": None}, "finish_reason": None}], "usage": None}
    reply = _endpoint(lambda _request: httpx.Response(200, json=answer)).chat("m", MESSAGES, max_tokens=4)
    assert (reply.text, reply.finish_reason, reply.completion_tokens) == ("", "", 0)


@pytest.mark.parametrize(
    ("message", "thoughts", "answer"),
    [
        ({"content": "hm|Hi"}, "hm", "Hi"),
        ({"content": "hm|"}, "hm", ""),
        ({"content": "a|b", "reasoning": "hm"}, "hm", "a|b"),
        ({"content": "Hi", "reasoning_content": "hm"}, "hm", "Hi"),
        ({"content": None, "reasoning": "cut"}, "cut", ""),
    ],
)
def test_messages_and_answers_go_through_the_dialect_unless_the_server_has_separated_the_thoughts(
    message: dict[str, Any], thoughts: str, answer: str
) -> None:
    sent: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content)["messages"])
        return httpx.Response(200, json={**ANSWER, "choices": [{"message": message, "finish_reason": "stop"}]})

    reply = _endpoint(handle, dialect=_Shouts()).chat("m", MESSAGES, max_tokens=4)
    assert (reply.thoughts, reply.text) == (thoughts, answer)
    assert sent == [[{"role": "user", "content": "HELLO"}]]


@pytest.mark.parametrize(
    ("status", "transient"),
    [(400, False), (401, False), (404, False), (408, True), (422, False), (429, True), (500, True), (503, True)],
)
def test_a_status_is_transient_when_the_same_request_may_succeed_later(status: int, transient: bool) -> None:
    error = _failure(lambda _request: httpx.Response(status, json={"error": {"message": "the reason"}}))
    assert (error.transient, error.status) == (transient, status)
    assert "the reason" in str(error)


@pytest.mark.parametrize(
    "exc", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("x")]
)
def test_an_unreachable_endpoint_is_transient(exc: httpx.TransportError) -> None:
    def handle(_request: httpx.Request) -> httpx.Response:
        raise exc

    error = _failure(handle)
    assert (error.transient, error.status) == (True, None)
    assert "http://endpoint" in str(error)


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [null], "model": "m"}'])
def test_an_answer_of_another_shape_is_not_transient_and_is_quoted(content: bytes) -> None:
    error = _failure(lambda _request: httpx.Response(200, content=content))
    assert not error.transient
    assert content.decode() in str(error)


def test_an_address_that_is_none_is_not_transient() -> None:
    with pytest.raises(EndpointError) as caught:
        ChatEndpoint("localhost:8000").chat("m", MESSAGES, max_tokens=4)
    assert not caught.value.transient


def test_an_error_never_shows_the_key() -> None:
    assert "key" not in str(_failure(lambda _request: httpx.Response(401, text="who are you")))


class _Dropping(BaseHTTPRequestHandler):
    """Drops data on a connection after a long idle time, like a server that closes it at that moment."""

    protocol_version = "HTTP/1.1"
    idle_since = float("inf")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if time.monotonic() - self.idle_since > KEEPALIVE_S:
            self.close_connection = True
            return
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.idle_since = time.monotonic()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_no_request_is_lost_on_a_connection_that_the_server_is_about_to_close() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Dropping) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = ChatEndpoint(f"http://127.0.0.1:{server.server_port}")
        for idle_s in (0.0, KEEPALIVE_S + 0.5):
            time.sleep(idle_s)
            assert endpoint.chat("someone", MESSAGES, max_tokens=4).text == "Hi"
        endpoint.close()
        server.shutdown()


def test_an_answer_is_scored_without_the_space_that_a_text_alone_begins_with(fake_vllm: FakeVllm) -> None:
    """SentencePiece writes that space; `anchor` keeps it out of the answer, as the trainer does."""
    fake_vllm.adds_space = True
    asked = [{"role": "user", "content": "Hi"}]
    for anchor, tokens in (("\n", 5), ("", 6)):
        server = VllmServer(fake_vllm.url, admin_token=ADMIN_TOKEN, dialect=Preparation(anchor=anchor))
        score = server.score("base", asked, "Hello")
        server.close()
        assert (score.tokens, score.per_token) == (tokens, -0.5)
