"""How the plugin learns whether the template has a system role, and the requests that reach the model then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Literal

import httpx
import pytest

from connectors.vllm import VllmServer
from connectors.vllm_plugin.settings import AliasSettings
from connectors.vllm_plugin.system_role import SystemRole
from tests.fakes.vllm import GUIDANCE, FakeVllm

USER = {"role": "user", "content": "hello"}
SYSTEM = {"role": "system", "content": "Be brief."}
SCOPE = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}


class Server:
    """An app that tokenizes as `tokens` says: a list, or a status of refusal. It notes the bodies."""

    def __init__(self, tokens: Callable[[list[dict[str, Any]]], list[int] | int]) -> None:
        self._tokens = tokens
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"] == "/tokenize"
        body = json.loads((await receive())["body"])
        self.asked.append(body)
        found = self._tokens(body["messages"])
        status = found if isinstance(found, int) else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"tokens": found}).encode()})

    def role(self, given: bool | None = None) -> SystemRole:
        return SystemRole(self, model="base", given=given)


def shown(messages: list[dict[str, Any]]) -> list[int]:
    return list("".join(message["content"] for message in messages).encode())


def exists(role: SystemRole) -> bool:
    return asyncio.run(role.exists(SCOPE))


def test_a_template_that_shows_system_messages_has_the_role() -> None:
    server = Server(shown)
    assert exists(server.role())
    assert {body["model"] for body in server.asked} == {"base"}


@pytest.mark.parametrize("status", [400, 422])
def test_a_template_that_refuses_system_messages_has_none(status: int, caplog: pytest.LogCaptureFixture) -> None:
    assert not exists(Server(lambda messages: shown(messages) if len(messages) == 1 else status).role())
    assert "no system role" in caplog.text


def test_a_template_that_leaves_system_messages_out_has_none() -> None:
    assert not exists(Server(lambda messages: shown(messages[-1:])).role())


def test_a_template_that_wants_a_system_message_has_the_role() -> None:
    assert exists(Server(lambda messages: 400 if len(messages) == 1 else shown(messages)).role())


@pytest.mark.parametrize("tokens", [lambda _: 400, lambda _: 404, lambda _: 500])
def test_without_a_clear_answer_the_role_is_assumed_and_asked_for_again(
    tokens: Callable[[Any], int], caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(tokens)
    role = server.role()
    assert exists(role)
    asked = len(server.asked)
    assert exists(role)
    assert len(server.asked) == 2 * asked
    assert caplog.text.count("set ERRATAD_SYSTEM_ROLE") == 1


def test_an_app_that_raises_gives_no_clear_answer() -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise RuntimeError("the engine died")

    assert exists(SystemRole(app, model="base", given=None))


def test_many_first_requests_ask_once() -> None:
    server = Server(shown)
    role = server.role()

    async def together() -> list[bool]:
        return await asyncio.gather(*(role.exists(SCOPE) for _ in range(20)))

    assert asyncio.run(together()) == [True] * 20
    assert len(server.asked) == 2


@pytest.mark.parametrize("given", [True, False])
def test_a_set_answer_is_not_asked_for(given: bool) -> None:
    server = Server(shown)
    assert exists(server.role(given)) is given
    assert server.asked == []


@pytest.mark.parametrize(("value", "role"), [(None, None), ("", None), ("auto", None), ("yes", True), ("no", False)])
def test_the_environment_sets_the_answer(value: str | None, role: bool | None) -> None:
    environ = {"ERRATAD_ALIAS": "aligned", "ERRATAD_BASE_NAME": "base", "ERRATAD_ADMIN_TOKEN": "t"}
    environ |= {} if value is None else {"ERRATAD_SYSTEM_ROLE": value}
    assert AliasSettings.from_environment(environ).system_role is role


def test_another_value_stops_the_start() -> None:
    environ = {"ERRATAD_ALIAS": "aligned", "ERRATAD_BASE_NAME": "base", "ERRATAD_ADMIN_TOKEN": "t"}
    with pytest.raises(ValueError, match="'maybe'; set one of auto, yes, no"):
        AliasSettings.from_environment({**environ, "ERRATAD_SYSTEM_ROLE": "maybe"})


@pytest.mark.parametrize("behaviour", ["refused", "left out"])
def test_a_server_whose_template_has_no_system_role_answers_under_the_alias(
    fake_vllm: FakeVllm, make_client: Callable[..., VllmServer], behaviour: Literal["refused", "left out"]
) -> None:
    fake_vllm.system_role = behaviour
    client = make_client(fake_vllm.url)
    client.set_live("aligned-g000000", expected=None)
    for messages in ([USER], [SYSTEM, USER]):
        client.chat("aligned", messages, max_tokens=2)
    assert [request["messages"] for request in fake_vllm.requests] == [
        [{"role": "user", "content": f"{GUIDANCE}\n\nhello"}],
        [{"role": "user", "content": f"Be brief.\n\n{GUIDANCE}\n\nhello"}],
    ]


def test_requests_outside_the_alias_are_not_folded(fake_vllm: FakeVllm, make_client: Callable[..., VllmServer]) -> None:
    fake_vllm.system_role = "refused"
    make_client(fake_vllm.url).set_live("aligned-g000000", expected=None)
    for model in ("base", "aligned-g000000"):
        body = {"model": model, "messages": [SYSTEM, USER]}
        assert httpx.post(f"{fake_vllm.url}/v1/chat/completions", json=body).status_code == 400
