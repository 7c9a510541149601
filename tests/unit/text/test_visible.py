"""Characters that a person does not see: bidirectional controls, joiners, tags."""

from __future__ import annotations

import unicodedata

import pytest

from daemon.text.visible import hidden_again, visible


def test_every_control_and_format_character_is_seen() -> None:
    unseen = [
        code
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and code not in {0x09, 0x0A}
    ]
    assert len(unseen) > 2000
    assert [code for code in unseen if visible(chr(code)) != f"⟨U+{code:04X}⟩"] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pay \u202eeve\u202c now", "pay ⟨U+202E⟩eve⟨U+202C⟩ now"),
        ("\u2066a\u2069\u200f\u061c", "⟨U+2066⟩a⟨U+2069⟩⟨U+200F⟩⟨U+061C⟩"),
        ("a\u200db\ufe0f\u3164\U000e0041", "a⟨U+200D⟩b⟨U+FE0F⟩⟨U+3164⟩⟨U+E0041⟩"),
        ("one\r\ntwo\tthree\rfour\x00\x1b[2J", "one\r\ntwo\tthree⟨U+000D⟩four⟨U+0000⟩⟨U+001B⟩[2J"),
        ("❤️ 👨\u200d👩 1\ufe0f\u20e3 שלום", "❤️ 👨\u200d👩 1\ufe0f\u20e3 שלום"),
        ("⟨U+202E⟩ ⟨x⟩", "⟨U+27E8⟩U+202E⟩ ⟨x⟩"),
    ],
)
def test_a_shown_text_gives_the_text_back(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert hidden_again(shown) == text


def test_a_code_of_a_seen_character_stays_text() -> None:
    assert hidden_again("⟨U+0041⟩ ⟨U+FFFFFF⟩ ⟨U+202E") == "⟨U+0041⟩ ⟨U+FFFFFF⟩ ⟨U+202E"
