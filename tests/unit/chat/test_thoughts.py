"""Thoughts are separated from answers."""

from __future__ import annotations

import pytest

from daemon.chat.thoughts import Split, find_tags, split_thoughts

TAGS = ("<think>", "</think>")


@pytest.mark.parametrize(
    ("text", "opened", "split"),
    [
        ("Hello", True, Split("", "Hello")),
        ("<think>\nhm\n</think>\n\nHello\n", False, Split("hm", "Hello\n")),
        ("<think>\n\n</think>\n\nHello", False, Split("", "Hello")),
        ("\n<think>a</think>b</think>c", False, Split("a", "b</think>c")),
        ("<think>cut", False, Split("cut", "")),
        ("hm</think>Hello", True, Split("hm", "Hello")),
        ("Write </think> at the end", False, Split("", "Write </think> at the end")),
    ],
)
def test_a_text_is_split_at_the_tags(text: str, opened: bool, split: Split) -> None:
    assert split_thoughts(text, TAGS, opened=opened) == split


def test_without_tags_all_is_answer() -> None:
    assert split_thoughts("<think>a</think>b", None, opened=True) == Split("", "<think>a</think>b")


def test_the_tags_are_those_of_the_template_or_of_the_configuration() -> None:
    assert find_tags("{{ '</think>' }}", "auto") == TAGS
    assert find_tags("[THINK]", "auto") == ("[THINK]", "[/THINK]")
    assert find_tags("plain", "auto") is None
    assert find_tags("<think>", "none") is None
    assert find_tags("plain", ("<a>", "</a>")) == ("<a>", "</a>")
