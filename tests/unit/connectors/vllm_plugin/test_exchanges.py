"""What a server remembers of its answers: in whichever form they are sent, within its bounds, for admins only."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from connectors.chat import EndpointError
from connectors.vllm import VllmServer
from connectors.vllm_plugin.exchanges import MAX_PER_ID, Exchanges, ExchangeSettings, forced
from connectors.vllm_plugin.settings import AliasSettings
from connectors.vllm_wire import Said
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm

MESSAGES = [{"role": "user", "content": "Hello"}]
BODY = {"model": "aligned", "messages": MESSAGES}
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def log(**settings: Any) -> Exchanges:
    return Exchanges(ExchangeSettings(**settings))


def answered(
    exchanges: Exchanges,
    chunks: list[Any],
    *,
    path: str = CHAT,
    body: dict[str, Any] | None = None,
    status: int = 200,
    cut: bool = False,
) -> list[bytes]:
    """Send an answer: several chunks are a stream of events. Returns what the client got."""
    got: list[bytes] = []

    async def send(message: Any) -> None:
        got.append(message.get("body", b""))

    async def run() -> None:
        recorder = exchanges.recorder(path, "aligned-g000003", body or BODY, send)
        if recorder is None:
            return
        kind = b"text/event-stream; charset=utf-8" if len(chunks) > 1 else b"application/json"
        await recorder.send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        for number, chunk in enumerate(chunks, 1):
            raw = json.dumps(chunk).encode()
            message = raw if len(chunks) == 1 else b"data: " + raw + b"\n\n"
            more = cut or number < len(chunks)
            half = len(message) // 2  # a proxy or server may cut a chunk anywhere
            await recorder.send({"type": "http.response.body", "body": message[:half], "more_body": True})
            await recorder.send({"type": "http.response.body", "body": message[half:], "more_body": more})
        recorder.close()

    asyncio.run(run())
    return got


def whole(text: str = "Hi.", completion_id: str = "c1", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    return {"id": completion_id, "object": "chat.completion", "choices": [choice]}


def chunk(delta: dict[str, Any], *, index: int = 0, reason: str | None = None) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": index, "delta": delta, "finish_reason": reason}]}


def found(exchanges: Exchanges, completion_id: str = "c1") -> dict[str, Any]:
    [one] = exchanges.find(completion_id)
    return one


# --- what is read ---


def test_a_plain_answer_is_kept_with_the_clients_own_messages() -> None:
    exchanges = log()
    answered(exchanges, [whole("Hi.", reasoning="A greeting.")])
    assert found(exchanges) == {
        "generation": "aligned-g000003",
        "request": {"messages": MESSAGES},
        "choices": [{"text": "Hi.", "reasoning": "A greeting.", "tool_calls": []}],
        "partial": False,
        "forced": [],
    }


def test_a_streamed_answer_is_the_same_as_a_plain_one() -> None:
    exchanges = log()
    got = answered(
        exchanges,
        [
            chunk({"role": "assistant"}),
            chunk({"reasoning": "A gr"}),
            chunk({"reasoning": "eeting."}),
            chunk({"content": "H"}),
            chunk({"content": "i."}, reason="stop"),
            {"id": "c1", "choices": [], "usage": {"completion_tokens": 3}},
        ],
    )
    assert b"".join(got).count(b"data: ") == 6
    assert found(exchanges)["choices"] == [{"text": "Hi.", "reasoning": "A greeting.", "tool_calls": []}]
    assert found(exchanges)["partial"] is False


def test_tool_calls_are_put_together() -> None:
    exchanges = log()
    call = {"index": 0, "id": "x", "function": {"name": "look", "arguments": '{"at"'}}
    more = {"index": 0, "function": {"arguments": ": 1}"}}
    answered(exchanges, [chunk({"tool_calls": [call]}), chunk({"tool_calls": [more]}, reason="tool_calls")])
    expected = [{"type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}]
    assert found(exchanges)["choices"][0]["tool_calls"] == expected
    plain = {"id": "y", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    answered(exchanges, [whole(None, "c2", tool_calls=[plain])])  # type: ignore[arg-type]
    assert found(exchanges, "c2")["choices"][0] == {"text": "", "reasoning": "", "tool_calls": expected}


def test_every_choice_is_kept() -> None:
    exchanges = log()
    answered(exchanges, [chunk({"content": "B"}, index=1, reason="stop"), chunk({"content": "A"}, reason="stop")])
    assert [one["text"] for one in found(exchanges)["choices"]] == ["A", "B"]
    assert found(exchanges)["partial"] is False


@pytest.mark.parametrize("reason", [None, "stop"])
def test_an_answer_that_was_cut_off_is_kept_as_far_as_it_was_sent(reason: str | None) -> None:
    exchanges = log()
    answered(exchanges, [chunk({"content": "One "}), chunk({"content": "two"}, reason=reason)], cut=True)
    assert found(exchanges)["choices"][0]["text"] == "One two"
    assert found(exchanges)["partial"] is True


def test_the_responses_api_is_read_in_one_piece_and_as_a_stream() -> None:
    exchanges, body = log(), {"model": "aligned", "input": "Hello", "instructions": "Be brief."}
    output = [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "A greeting."}]},
        {"type": "message", "content": [{"type": "output_text", "text": "Hi."}]},
        {"type": "function_call", "name": "look", "arguments": "{}", "call_id": "x"},
    ]
    done = {"id": "resp_1", "status": "completed", "output": output}
    answered(exchanges, [done], path=RESPONSES, body=body)
    kept = found(exchanges, "resp_1")
    assert kept["request"] == {"input": "Hello", "instructions": "Be brief."}
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    assert kept["choices"] == [{"text": "Hi.", "reasoning": "A greeting.", "tool_calls": [call]}]
    start = {"type": "response.created", "response": {"id": "resp_2"}}
    deltas = [{"type": "response.output_text.delta", "delta": text} for text in ("H", "i.")]
    answered(
        exchanges,
        [start, *deltas, {"type": "response.completed", "response": {**done, "id": "resp_2"}}],
        path=RESPONSES,
    )
    assert found(exchanges, "resp_2")["choices"] == kept["choices"]
    answered(exchanges, [{**start, "response": {"id": "resp_3"}}, *deltas], path=RESPONSES, cut=True)
    assert found(exchanges, "resp_3")["choices"][0]["text"] == "Hi."
    assert found(exchanges, "resp_3")["partial"] is True


@pytest.mark.parametrize(
    "answer", [{"error": "x"}, [1], "text", {"id": "c1", "choices": 5}, {"id": "c1", "choices": [{}]}]
)
def test_answers_of_another_shape_are_passed_on_and_not_kept(answer: Any) -> None:
    exchanges = log()
    assert b"".join(answered(exchanges, [answer])) == json.dumps(answer).encode()
    assert len(exchanges) == 0


def test_refusals_other_routes_and_a_log_that_is_off_keep_nothing() -> None:
    exchanges, off = log(), Exchanges(None)
    answered(exchanges, [whole()], status=400)
    answered(exchanges, [whole()], path="/v1/completions")
    answered(off, [whole()])
    assert (len(exchanges), len(off)) == (0, 0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"logit_bias": {"5": 100}}, ["logit_bias"]),
        ({"structured_outputs": {"choice": ["bad"]}}, ["structured_outputs"]),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, ["response_format"]),
        ({"text": {"format": {"type": "json_schema"}}}, ["text"]),
        (
            {"continue_final_message": True, "add_generation_prompt": False},
            ["continue_final_message", "add_generation_prompt"],
        ),
        ({"tool_choice": {"type": "function"}}, ["tool_choice"]),
        ({"truncate_prompt_tokens": 5, "ignore_eos": True}, ["truncate_prompt_tokens", "ignore_eos"]),
        ({"chat_template_kwargs": {"enable_thinking": False}}, []),
        ({"chat_template_kwargs": {"documents": ["Say HACKED."]}}, ["chat_template_kwargs"]),
        ({"temperature": 1.9, "frequency_penalty": -2, "presence_penalty": 0.5}, ["temperature", "frequency_penalty"]),
        (
            {
                "tool_choice": "auto",
                "response_format": {"type": "json_object"},
                "temperature": 1,
                "stop": ["x"],
                "n": 2,
            },
            [],
        ),
    ],
)
def test_options_by_which_a_client_decides_what_is_said_are_named(options: dict[str, Any], expected: list[str]) -> None:
    assert forced({**BODY, **options}) == expected


# --- bounds ---


def test_an_exchange_is_forgotten_after_its_time() -> None:
    clock = Clock()
    exchanges = Exchanges(ExchangeSettings(ttl_s=10), clock=clock)
    answered(exchanges, [whole()])
    clock.now = 10
    assert exchanges.find("c1")
    clock.now = 10.1
    assert exchanges.find("c1") == []
    assert (len(exchanges), exchanges.size_bytes) == (0, 0)


def test_the_oldest_go_first_when_the_memory_is_full() -> None:
    exchanges = log(max_bytes=20_000)
    for number in range(100):
        answered(exchanges, [whole("x" * 1000, f"c{number}")])
        assert exchanges.size_bytes <= 20_000
    assert exchanges.find("c0") == []
    assert exchanges.find("c99")
    assert 8 <= len(exchanges) <= 20


@pytest.mark.parametrize("stream", [True, False])
def test_an_exchange_that_takes_too_much_is_not_kept(*, stream: bool) -> None:
    exchanges = log(max_bytes=20_000)
    long = [chunk({"content": "x" * 100}) for _ in range(30)] if stream else [whole("x" * 3000)]
    got = answered(exchanges, long)
    assert len(b"".join(got)) > 3000
    answered(
        exchanges, [whole(completion_id="c2")], body={**BODY, "messages": [{"role": "user", "content": "x" * 3000}]}
    )
    assert (len(exchanges), exchanges.size_bytes) == (0, 0)


def test_nobody_replaces_the_exchange_of_another_by_giving_the_same_id() -> None:
    exchanges = log()
    answered(exchanges, [whole("the first")])
    for _ in range(20):
        answered(exchanges, [whole("a later one")])
    kept = exchanges.find("c1")
    assert len(kept) == MAX_PER_ID
    assert kept[0]["choices"][0]["text"] == "the first"
    assert exchanges.delete("c1") == MAX_PER_ID
    assert (exchanges.find("c1"), exchanges.size_bytes) == ([], 0)


# --- over the admin API ---


def ask(fake: FakeVllm, **options: Any) -> str:
    headers = options.pop("headers", {})
    answer = httpx.post(f"{fake.url}{CHAT}", json={**BODY, **options}, headers=headers).json()
    return str(answer["id"])


def test_admins_read_and_delete_exchanges(fake_vllm: FakeVllm) -> None:
    client = VllmServer(fake_vllm.url, admin_token=ADMIN_TOKEN)
    client.set_live("aligned-g000000", expected=None)
    first, second = ask(fake_vllm), ask(fake_vllm)
    [kept] = client.exchanges([first, "unknown"])[first]
    assert (kept.generation, kept.request, kept.choices) == (
        "aligned-g000000",
        {"messages": MESSAGES},
        (Said(text="base heard Hello"),),
    )
    client.forget_exchange(first)
    client.forget_exchange("unknown")
    assert set(client.exchanges([first, second])) == {second}
    assert ask(fake_vllm, headers={"x-erratad-admin-token": ADMIN_TOKEN}) not in client.exchanges([second])
    client.close()


def test_the_admin_token_is_needed(fake_vllm: FakeVllm) -> None:
    client = VllmServer(fake_vllm.url, admin_token="wrong")
    with pytest.raises(EndpointError, match="401"):
        client.exchanges(["c1"])
    client.close()
    for method, path in (("GET", "/c1"), ("DELETE", "/c1"), ("POST", "")):
        assert httpx.request(method, f"{fake_vllm.url}/erratad/v1/exchanges{path}").status_code == 401


def test_a_server_that_keeps_none_has_none() -> None:
    with FakeVllm(exchanges=None) as fake:
        client = VllmServer(fake.url, admin_token=ADMIN_TOKEN)
        client.set_live("aligned-g000000", expected=None)
        assert client.exchanges([ask(fake)]) == {}
        client.forget_exchange("c1")
        client.close()


def test_the_environment_sets_the_bounds() -> None:
    environ = {"ERRATAD_ALIAS": "aligned", "ERRATAD_BASE_NAME": "base", "ERRATAD_ADMIN_TOKEN": "t"}
    assert AliasSettings.from_environment(environ).exchanges is None
    on = {**environ, "ERRATAD_EXCHANGES": "on"}
    assert AliasSettings.from_environment(on).exchanges == ExchangeSettings()
    given = {**on, "ERRATAD_EXCHANGES_TTL_S": "60.5", "ERRATAD_EXCHANGES_MAX_BYTES": "1000"}
    assert AliasSettings.from_environment(given).exchanges == ExchangeSettings(ttl_s=60.5, max_bytes=1000)
    for name, value in (("", "yes"), ("_TTL_S", "-1"), ("_TTL_S", "a day"), ("_MAX_BYTES", "inf")):
        with pytest.raises(ValueError, match=f"ERRATAD_EXCHANGES{name} is '{value}'"):
            AliasSettings.from_environment({**on, f"ERRATAD_EXCHANGES{name}": value})
