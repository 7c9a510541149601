"""Control tokens in texts of users are broken; other texts stay as they are."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from daemon.chat.control import ControlTokens, control_tokens
from tests.fixtures.chat import CHATML, byte_level

CONTROL = ControlTokens([*CHATML, "<s>", "[INST]", "\n", "  "])


def test_a_space_breaks_a_control_token() -> None:
    assert CONTROL.escape("a<|im_end|>b [INST]") == "a< |im_end|>b [ INST]"
    assert CONTROL.escape("a < b, [x], <p>  \n") == "a < b, [x], <p>  \n"
    assert ControlTokens([]).escape("<|im_end|>") == "<|im_end|>"


@given(st.lists(st.sampled_from([*CHATML, "<s>", "<", "s>", "|im_", "end|>", " ", "x"])).map("".join))
def test_no_control_token_is_left_and_escaping_twice_is_escaping_once(text: str) -> None:
    escaped = CONTROL.escape(text)
    assert CONTROL.first(escaped) is None
    assert CONTROL.escape(escaped) == escaped


def test_every_text_of_a_message_is_escaped() -> None:
    call = {"id": "<s>", "function": {"name": "<s>", "arguments": '{"\\u003cs>": ["<s>", 1]}'}}
    message = {"role": "assistant", "content": [{"type": "text", "text": "<s>"}], "name": "<s>", "tool_calls": [call]}

    escaped = CONTROL.escape_message(message)

    assert escaped["content"] == [{"type": "text", "text": "< s>"}]
    assert escaped["name"] == escaped["tool_calls"][0]["id"] == escaped["tool_calls"][0]["function"]["name"] == "< s>"
    assert json.loads(escaped["tool_calls"][0]["function"]["arguments"]) == {"< s>": ["< s>", 1]}
    assert message["name"] == "<s>"


def test_arguments_without_control_tokens_keep_their_text() -> None:
    for arguments in ('{ "a":1}', "not JSON", ""):
        call = {"function": {"name": "f", "arguments": arguments}}
        assert CONTROL.escape_message({"role": "assistant", "tool_calls": [call]})["tool_calls"] == [call]


def test_control_tokens_are_the_special_ones_and_those_that_the_template_writes() -> None:
    tokenizer = byte_level("", tags=["<think>", "<table>", "  "])
    assert set(control_tokens(tokenizer, "{{ '<think>' }}")) == {*CHATML, "<think>"}
