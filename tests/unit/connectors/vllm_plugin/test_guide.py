"""The guidance in the bodies of every protocol, with and without a system role; no conversations stay unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from connectors.vllm_plugin.guide import guided

GUIDANCE = "Answer correctly."
USER = {"role": "user", "content": "Hello"}
FOLDED = {"role": "user", "content": f"{GUIDANCE}\n\nHello"}
CHAT, BATCH, RESPONSES, ANTHROPIC = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/responses",
    "/v1/messages",
)


def folded(path: str, **body: Any) -> dict[str, Any]:
    before = json.dumps(body)
    changed = guided(path, body, GUIDANCE, system_role=False)
    assert json.dumps(body) == before
    return changed


@pytest.mark.parametrize("path", [CHAT, "/tokenize", f"{CHAT}/render", "/cohere/v2/chat"])
def test_without_a_system_role_the_guidance_stands_above_the_first_user_message(path: str) -> None:
    answer = {"role": "assistant", "content": "Hi"}
    assert folded(path, messages=[USER, answer, USER]) == {"messages": [FOLDED, answer, USER]}


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_clients_own_system_message_is_folded_with_the_guidance(role: str) -> None:
    system = {"role": role, "content": "Be brief."}
    expected = [{"role": "user", "content": f"Be brief.\n\n{GUIDANCE}\n\nHello"}]
    assert folded(CHAT, messages=[system, USER])["messages"] == expected
    parts = {"role": role, "content": [{"type": "text", "text": "Be brief."}]}
    assert folded(CHAT, messages=[parts, USER])["messages"] == [
        {"role": "user", "content": f"Be brief.\n{GUIDANCE}\n\nHello"}
    ]


def test_the_guidance_joins_the_first_text_of_content_parts() -> None:
    picture, text = {"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "What is it?"}
    assert folded(CHAT, messages=[{"role": "user", "content": [picture, text]}])["messages"][0]["content"] == [
        picture,
        {"type": "text", "text": f"{GUIDANCE}\n\nWhat is it?"},
    ]


def test_every_conversation_of_a_batch_is_folded() -> None:
    assert folded(BATCH, messages=[[USER], [USER]])["messages"] == [[FOLDED], [FOLDED]]


def test_the_input_of_a_response_is_folded_with_its_instructions() -> None:
    assert folded(RESPONSES, input="Hello", instructions=None) == {"input": [FOLDED], "instructions": None}
    assert folded(RESPONSES, input=[USER], instructions="Be brief.") == {
        "input": [{"role": "user", "content": f"Be brief.\n\n{GUIDANCE}\n\nHello"}],
        "instructions": None,
    }


def test_the_parts_of_a_response_keep_their_own_type_of_text() -> None:
    text, picture = {"type": "input_text", "text": "Hello"}, {"type": "input_image", "image_url": "data:"}

    def content(*parts: Any) -> Any:
        return folded(RESPONSES, input=[{"role": "user", "content": list(parts)}])["input"][0]["content"]

    assert content(picture, text) == [picture, {"type": "input_text", "text": f"{GUIDANCE}\n\nHello"}]
    assert content(picture) == [{"type": "input_text", "text": GUIDANCE}, picture]


@pytest.mark.parametrize("system", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_the_system_field_of_a_message_is_folded_with_the_guidance(system: Any) -> None:
    body = folded(ANTHROPIC, system=system, messages=[USER], max_tokens=5)
    assert (body["system"], body["max_tokens"]) == (None, 5)
    content = body["messages"][0]["content"]
    assert content.startswith("Be brief.")
    assert content.endswith(f"{GUIDANCE}\n\nHello")


def test_a_plain_completion_has_no_place_for_guidance() -> None:
    assert folded("/v1/completions", prompt="Hello") == {"prompt": "Hello"}


NO_CONVERSATIONS: list[tuple[str, dict[str, Any]]] = [
    *((path, {"messages": messages}) for path in (CHAT, BATCH) for messages in ([], None, "text", 5, [1], [[]], {})),
    *((BATCH, {"messages": [messages]}) for messages in ([], None, "text", [1])),
    (CHAT, {"messages": [{"role": ["system"], "content": "x"}]}),
    (CHAT, {"messages": [{"role": "system", "content": 5}]}),
    (CHAT, {"messages": [{"role": "system", "content": {"type": "text", "text": "x"}}, USER]}),
    (CHAT, {"messages": [{"role": "system", "content": [{"type": "text", "text": 5}]}, USER]}),
    *((ANTHROPIC, {"system": system, "messages": [USER]}) for system in (5, {}, False, [5])),
    (ANTHROPIC, {"messages": []}),
    *((RESPONSES, {"instructions": wrong, "input": "Hello"}) for wrong in (5, [], {}, False)),
    (RESPONSES, {"input": []}),
]


@pytest.mark.parametrize(("path", "body"), NO_CONVERSATIONS, ids=str)
@pytest.mark.parametrize("system_role", [True, False])
def test_what_is_no_conversation_stays_as_it_is_for_vllm_to_refuse(
    path: str, body: dict[str, Any], system_role: bool
) -> None:
    assert guided(path, body, GUIDANCE, system_role=system_role) == body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": 5}]}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}),
        (ANTHROPIC, {"messages": [{"role": "user", "content": 5}]}),
        (ANTHROPIC, {"messages": "text"}),
        (CHAT, {"messages": [{"role": "system", "content": "Be brief."}]}),
        (RESPONSES, {"input": [{"role": "developer", "content": ""}]}),
        (RESPONSES, {"input": 5}),
        (RESPONSES, {"input": [1]}),
    ],
    ids=str,
)
def test_folding_makes_no_question_of_what_is_none(path: str, body: dict[str, Any]) -> None:
    assert folded(path, **body) == body
