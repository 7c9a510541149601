"""The guidance: its place in a conversation, and the rewriting of requests of every protocol."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.guidance import fold_system, with_guidance
from connectors.vllm_plugin.alias import AliasMiddleware, AliasTable, answering_as
from connectors.vllm_plugin.errors import RequestRefused
from connectors.vllm_plugin.settings import AliasSettings

GUIDANCE = "Answer correctly."
USER = {"role": "user", "content": "Hello"}
SETTINGS = AliasSettings(alias="aligned", base_name="base", guidance=GUIDANCE, admin_token="secret", system_role=True)

_contents = st.none() | st.text() | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}))
_messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": _contents})
)


def test_a_conversation_without_system_message_gets_one() -> None:
    assert with_guidance([USER], GUIDANCE) == [{"role": "system", "content": GUIDANCE}, USER]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_guidance_stands_below_the_system_message(role: str) -> None:
    guided = with_guidance([{"role": role, "content": "Be brief."}, USER], GUIDANCE)
    assert guided == [{"role": role, "content": f"Be brief.\n\n{GUIDANCE}"}, USER]


def test_a_system_message_of_parts_keeps_its_parts() -> None:
    part = {"type": "text", "text": "Be brief."}
    guided = with_guidance([{"role": "system", "content": [part]}], GUIDANCE)
    assert guided[0]["content"] == [part, {"type": "text", "text": GUIDANCE}]


def test_an_empty_guidance_changes_nothing() -> None:
    assert with_guidance([USER], "") == [USER]


@given(_messages)
def test_the_rest_of_the_conversation_is_untouched_and_so_is_the_input(messages: list[dict[str, Any]]) -> None:
    before = json.dumps(messages)
    guided = with_guidance(messages, GUIDANCE)
    assert json.dumps(messages) == before
    assert guided[0]["role"] in {"system", "developer"}
    assert GUIDANCE in json.dumps(guided[0]["content"])
    assert guided[len(guided) - len(messages) + 1 :] == messages[1:]


def _sent(path: str, body: Any, *, table: AliasTable | None = None, chunks: int = 1) -> tuple[Any, str, dict[str, str]]:
    """The app's view behind the middleware (parsed body, generation name), and the response's headers."""
    if table is None:
        table = AliasTable(SETTINGS)
        table.set_live("aligned-g000000", None)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    size = -(-len(raw) // chunks)
    parts = [raw[at : at + size] for at in range(0, len(raw), size)]
    messages = [{"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts]
    got: list[Any] = []
    started: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = await receive()
        assert int(dict(scope["headers"])[b"content-length"]) == len(request["body"])
        got.append((request["body"], answering_as("outside")))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "headers": headers}
    asyncio.run(AliasMiddleware(app, table=table)(scope, receive, send))
    ((received, answering),) = got
    answered = {key.decode(): value.decode() for key, value in started[0]["headers"]}
    return (received if isinstance(body, bytes) else json.loads(received)), answering, answered


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/tokenize", "/cohere/v2/chat", "/v1/chat/completions/render"]
)
def test_requests_with_messages_under_the_alias_are_guided(path: str) -> None:
    body, answering, headers = _sent(path, {"model": "aligned", "messages": [USER], "n": 2}, chunks=3)
    assert body == {"model": "base", "messages": with_guidance([USER], GUIDANCE), "n": 2}
    assert answering == "aligned-g000000"
    assert headers["x-erratad-generation"] == "0"


def test_every_conversation_of_a_batch_is_guided() -> None:
    body, _, _ = _sent("/v1/chat/completions/batch", {"model": "aligned", "messages": [[USER], [USER]]})
    assert body["messages"] == [with_guidance([USER], GUIDANCE)] * 2


@pytest.mark.parametrize(("given_text", "expected"), [(None, GUIDANCE), ("Be brief.", f"Be brief.\n\n{GUIDANCE}")])
@pytest.mark.parametrize(("path", "field"), [("/v1/responses", "instructions"), ("/v1/messages", "system")])
def test_protocols_with_a_field_for_the_system_message_are_guided_there(
    path: str, field: str, given_text: str | None, expected: str
) -> None:
    body, _, _ = _sent(path, {"model": "aligned", "messages": [USER], field: given_text})
    assert (body[field], body["messages"]) == (expected, [USER])


def test_a_plain_completion_has_no_place_for_guidance() -> None:
    body, _, _ = _sent("/v1/completions", {"model": "aligned", "prompt": "Hello"})
    assert body == {"model": "base", "prompt": "Hello"}


@pytest.mark.parametrize("model", ["base", "someone", None, 5])
def test_other_models_pass_unchanged(model: Any) -> None:
    sent = {"model": model, "messages": [{"role": "user", "content": "aligned"}]}
    body, answering, headers = _sent("/v1/chat/completions", sent)
    assert body == sent
    assert answering == "outside"
    assert "x-erratad-generation" not in headers


@pytest.mark.parametrize("raw", [b"aligned", b"\xffaligned", b'["aligned"]', b'{"model": "aligned"', b"[" * 5000])
def test_what_is_no_request_passes_unchanged_for_vllm_to_refuse(raw: bytes) -> None:
    assert _sent("/v1/chat/completions", raw)[0] == raw


@pytest.mark.parametrize("messages", [None, "text", [1], [{"role": "system", "content": 5}]])
def test_what_is_no_conversation_passes_unchanged_for_vllm_to_refuse(messages: Any) -> None:
    body, _, _ = _sent("/v1/chat/completions", {"model": "aligned", "messages": messages})
    assert body["messages"] == messages


def test_a_named_generation_is_not_guided() -> None:
    table = AliasTable(SETTINGS)
    table.add("aligned-g000017", "/adapters/17")
    body, answering, headers = _sent(
        "/v1/chat/completions", {"model": "aligned-g000017", "messages": [USER]}, table=table
    )
    assert body == {"model": "aligned-g000017", "messages": [USER]}
    assert (answering, headers["x-erratad-generation"]) == ("aligned-g000017", "17")
    assert table.adapters() == {"aligned-g000017": 0}


def test_a_draining_adapter_takes_no_requests_until_it_is_live_again() -> None:
    table = AliasTable(SETTINGS)
    table.add("aligned-g000001", "/adapters/1")
    table.drain("aligned-g000001")
    with pytest.raises(RequestRefused, match="does not exist"):
        table.resolve("aligned-g000001")
    table.set_live("aligned-g000001", None)
    route = table.resolve("aligned")
    assert route is not None
    assert route.name == "aligned-g000001"


@pytest.mark.parametrize("base_name", ["aligned", "aligned-g000000", "aligned-g123456"])
def test_a_base_name_that_the_alias_would_shadow_is_refused(base_name: str) -> None:
    with pytest.raises(ValueError, match="shadowed"):
        AliasSettings(alias="aligned", base_name=base_name, guidance="", admin_token="x")


def test_missing_settings_are_named() -> None:
    with pytest.raises(ValueError, match="ERRATAD_BASE_NAME, ERRATAD_ADMIN_TOKEN"):
        AliasSettings.from_environment({"ERRATAD_ALIAS": "aligned", "ERRATAD_ADMIN_TOKEN": ""})


def test_a_folded_system_message_stands_above_the_first_user_message() -> None:
    system, developer = {"role": "system", "content": "a"}, {"role": "developer", "content": [{"text": "b"}]}
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}

    assert fold_system([system, developer, user, answer]) == [{"role": "user", "content": "a\n\nb\n\nq"}, answer]
    assert fold_system([system, answer]) == [{"role": "user", "content": "a"}, answer]
    assert fold_system([system]) == [{"role": "user", "content": "a"}]
    assert fold_system([user, system]) == [user, system]
    assert fold_system([{"role": "system", "content": None}, user]) == [user]
    assert user["content"] == "q"


def test_a_folded_system_message_joins_the_first_text_part() -> None:
    picture, text = {"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "q"}
    system = {"role": "system", "content": "a"}

    def folded(*parts: dict[str, object]) -> object:
        return fold_system([system, {"role": "user", "content": list(parts)}])[0]["content"]

    assert folded(picture, text) == [picture, {"type": "text", "text": "a\n\nq"}]
    assert folded(picture) == [{"type": "text", "text": "a"}, picture]
