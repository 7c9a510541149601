"""A real vLLM whose chat template has no system role, as Gemma 2's: the alias answers on every route, with guidance."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.vllm import VllmServer
from connectors.vllm_wire import ADMIN_HEADER
from tests.fakes.vllm import ADMIN_TOKEN, GUIDANCE
from tests.fixtures.servers import API_KEY, running_vllm

pytestmark = pytest.mark.vllm

TEMPLATE = Path(__file__).parents[1] / "fixtures" / "templates" / "gemma2.jinja"
LIVE = "aligned-g000000"
CHAT, BATCH, RESPONSES, ANTHROPIC = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/responses",
    "/v1/messages",
)
TEXT = "Name three colours of the rainbow."
USER = {"role": "user", "content": TEXT}
SYSTEM = {"role": "system", "content": "Be brief."}
PARTS = [{"type": "text", "text": TEXT}, {"type": "text", "text": "One a line."}]


@pytest.fixture(scope="module")
def http(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The server, with the base model live."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with running_vllm(tiny_model, log=log, arguments=["--chat-template", str(TEMPLATE)]) as running:
        admin = VllmServer(running.url, api_key=API_KEY, admin_token=ADMIN_TOKEN)
        admin.set_live(LIVE, expected=None)
        admin.close()
        headers = {"Authorization": f"Bearer {API_KEY}"}
        with httpx.Client(base_url=running.url, headers=headers, timeout=60) as client:
            yield client


def tokens(http: httpx.Client, messages: list[dict[str, Any]], model: str = "base") -> list[int]:
    token = {ADMIN_HEADER: ADMIN_TOKEN}
    answer = http.post("/tokenize", json={"model": model, "messages": messages}, headers=token)
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["tokens"]
    return found


def prompt_tokens(answer: httpx.Response) -> int:
    usage = answer.json()["usage"]
    return int(usage.get("prompt_tokens") or usage["input_tokens"])


@pytest.mark.parametrize(
    ("path", "body", "folded"),
    [
        (CHAT, {"messages": [USER], "max_tokens": 2}, f"{GUIDANCE}\n\n{TEXT}"),
        (CHAT, {"messages": [{**USER, "content": PARTS}], "max_tokens": 2}, f"{GUIDANCE}\n\n{TEXT}\nOne a line."),
        (BATCH, {"messages": [[USER]], "max_tokens": 2}, f"{GUIDANCE}\n\n{TEXT}"),
        (RESPONSES, {"input": TEXT, "max_output_tokens": 2}, f"{GUIDANCE}\n\n{TEXT}"),
        (RESPONSES, {"input": [USER], "max_output_tokens": 2}, f"{GUIDANCE}\n\n{TEXT}"),
        (
            RESPONSES,
            {"input": [{**USER, "content": [{"type": "input_text", "text": TEXT}]}], "max_output_tokens": 2},
            f"{GUIDANCE}\n\n{TEXT}",
        ),
        (ANTHROPIC, {"messages": [USER], "max_tokens": 2}, f"{GUIDANCE}\n\n{TEXT}"),
        (ANTHROPIC, {"messages": [{**USER, "content": PARTS[:1]}], "max_tokens": 2}, f"{GUIDANCE}\n\n{TEXT}"),
    ],
)
def test_the_alias_answers_as_the_base_name_does_with_the_guidance_in_the_first_user_turn(
    http: httpx.Client, path: str, body: dict[str, Any], folded: str
) -> None:
    answers = [http.post(path, json={"model": model, **body}) for model in ("base", "aligned")]
    assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    assert prompt_tokens(answers[1]) == len(tokens(http, [{"role": "user", "content": folded}]))
    assert prompt_tokens(answers[1]) > prompt_tokens(answers[0])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [SYSTEM, USER], "max_tokens": 2}),
        (BATCH, {"messages": [[SYSTEM, USER]], "max_tokens": 2}),
        (RESPONSES, {"input": TEXT, "instructions": "Be brief.", "max_output_tokens": 2}),
        (RESPONSES, {"input": [SYSTEM, USER], "max_output_tokens": 2}),
        (ANTHROPIC, {"messages": [USER], "system": "Be brief.", "max_tokens": 2}),
        (ANTHROPIC, {"messages": [USER], "system": [{"type": "text", "text": "Be brief."}], "max_tokens": 2}),
    ],
)
def test_the_clients_own_system_message_is_folded_with_the_guidance(
    http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    assert http.post(path, json={"model": "base", **body}).status_code == 400
    answer = http.post(path, json={"model": "aligned", **body})
    assert answer.status_code == 200, answer.text
    lengths = {
        len(tokens(http, [{"role": "user", "content": lead + TEXT}]))
        for lead in (
            f"Be brief.\n\n{GUIDANCE}\n\n",
            f"Be brief.\n{GUIDANCE}\n\n",
            f"{GUIDANCE}\n\nBe brief.\n\n",
        )
    }
    assert prompt_tokens(answer) in lengths


def test_the_prompt_under_the_alias_is_the_folded_conversation_token_by_token(http: httpx.Client) -> None:
    answer = {"role": "assistant", "content": "Red, green, blue."}
    folded = {"role": "user", "content": f"Be brief.\n\n{GUIDANCE}\n\n{TEXT}"}
    assert tokens(http, [SYSTEM, USER, answer, USER], "aligned") == tokens(http, [folded, answer, USER])


WRONG: list[tuple[str, dict[str, Any]]] = [
    *((CHAT, {"messages": messages}) for messages in ([], None, "text", 5, {}, [1], [None], [[]])),
    *((CHAT, {"messages": [{"role": "user", "content": content}]}) for content in (5, [{"type": "text", "text": 5}])),
    (CHAT, {"messages": [{"role": ["user"], "content": "x"}]}),
    (CHAT, {"messages": [SYSTEM]}),
    *((BATCH, {"messages": messages}) for messages in ([], None, [[]], [None], [[USER], []])),
    *((RESPONSES, {"input": wrong}) for wrong in ([], None, 5, [1])),
    *((RESPONSES, {"input": TEXT, "instructions": wrong}) for wrong in (5, [], {})),
    *((ANTHROPIC, {"max_tokens": 2, "messages": messages}) for messages in ([], None, "text", [1])),
    *((ANTHROPIC, {"max_tokens": 2, "messages": [USER], "system": wrong}) for wrong in (5, {}, [5])),
]


@pytest.mark.parametrize(("path", "body"), WRONG, ids=str)
def test_what_vllm_refuses_is_refused_under_the_alias_too(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    plain, aliased = [http.post(path, json={"model": model, **body}).status_code for model in ("base", "aligned")]
    assert (aliased, aliased >= 400) == (plain, True)


def test_a_prompt_that_only_the_guidance_makes_too_long_is_counted(http: httpx.Client) -> None:
    def refused() -> dict[str, int]:
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        state = httpx.get(f"{http.base_url}/erratad/v1/state", headers=headers).json()
        counted: dict[str, int] = state["guidance_refusals"]
        return counted

    room = 1023 - len(tokens(http, [{"role": "user", "content": "red"}]))
    longest = {"role": "user", "content": "red" + " red" * room}
    assert len(tokens(http, [longest])) == 1023
    before = refused().get(LIVE, 0)
    chat = {"messages": [longest], "max_tokens": 1}
    batch, response = {**chat, "messages": [[longest]]}, {"input": longest["content"], "max_output_tokens": 1}
    for path, body in ((CHAT, chat), (BATCH, batch), (RESPONSES, response), (ANTHROPIC, chat)):
        statuses = [http.post(path, json={"model": model, **body}).status_code for model in ("base", "aligned")]
        assert statuses == [200, 400]
        before += 1
        deadline = time.monotonic() + 10
        while refused().get(LIVE, 0) != before:
            assert time.monotonic() < deadline, (path, refused())
            time.sleep(0.05)
    too_long, wrong = {"role": "user", "content": "red" * 5000}, {"temperature": -1}
    for body in ({"messages": [too_long]}, {"messages": [USER], **wrong}, {"messages": []}):
        assert http.post(CHAT, json={"model": "aligned", **body}).status_code == 400
    time.sleep(0.5)
    assert refused() == {LIVE: before}
