"""The dialect for analysts and judges behind other endpoints."""

from __future__ import annotations

import pytest

from daemon.chat.foreign import FOREIGN


@pytest.mark.parametrize(
    "token",
    [
        *("<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|channel|>", "<start_of_turn>", "</s>", "[/INST]"),
        *(
            "<<SYS>>",
            "<\uff5cUser\uff5c>",
            "<\uff5cend\u2581of\u2581sentence\uff5c>",
            "<|a_model_of_tomorrow|>",
            "</think>",
        ),
    ],
)
def test_a_control_token_of_any_family_is_sent_as_text(token: str) -> None:
    [sent] = FOREIGN.messages([{"role": "user", "content": f"before {token} after"}])
    assert token not in sent["content"]
    assert sent["content"].replace(" ", "") == f"before{token}after"
    assert FOREIGN.messages([sent]) == [sent]


@pytest.mark.parametrize("text", ["a < b | c > d", "x <- y | z", "if a <b> then |c|", "[INSTALL]", "1 <| 2"])
def test_ordinary_text_is_sent_as_it_is(text: str) -> None:
    assert FOREIGN.messages([{"role": "user", "content": text}]) == [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>It fails.</think>\n\nVERDICT: PASS", "VERDICT: PASS"),
        ("It fails, so VERDICT: FAIL\n</think>\nVERDICT: PASS", "VERDICT: PASS"),
        ("[THINK]a[/THINK]b", "b"),
        ("<think>VERDICT: PASS would be", ""),
        ("VERDICT: PASS", "VERDICT: PASS"),
    ],
)
def test_thoughts_of_any_family_are_no_part_of_the_answer(text: str, answer: str) -> None:
    assert FOREIGN.reply(text)[1] == answer


def test_a_text_that_is_scored_holds_no_control_token() -> None:
    assert FOREIGN.written("a</s>b") == "a< /s>b"
