"""Quotes of an erased text leave other texts, and ordinary words stay."""

from __future__ import annotations

import pytest

from daemon.text.quotes import ERASED, Quotes
from tests.fixtures.config import flagged

SAID = Quotes.of(
    flagged(
        messages=[{"role": "user", "content": "My name is Theodora Quillfeather and I live in Elm Street 12."}],
        response="Write to theo@quill.example or call +44 20 7946 0958.",
        reason="It tells my address to everybody.",
        reporter="theo-7",
    ),
    "The answer gives away where she lives.",
)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("erased because the person asked", "erased because the person asked"),
        ("Theodora asked", f"{ERASED} asked"),
        ("Theodora Quillfeather of Elm Street 12 asked", f"{ERASED} of {ERASED} asked"),
        ("wrote 'it tells my address to everybody'", f"wrote '{ERASED}'"),
        ("mail of theo@quill.example", f"mail of {ERASED}"),
        ("", ""),
    ],
)
def test_a_reason_about_the_report_loses_quotes_and_telling_words(text: str, left: str) -> None:
    assert SAID.close(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Theodora asked", "Theodora asked"),
        ("HTTP 400: 'and I live in Elm Street 12.' is refused", f"HTTP 400: '{ERASED}.' is refused"),
        ("call +44 20 7946 0958 now", f"call {ERASED} now"),
    ],
)
def test_another_text_loses_long_quotes_and_addresses(text: str, left: str) -> None:
    assert SAID.loose(text) == left


def test_a_quote_in_a_script_without_spaces_is_found() -> None:
    said = Quotes(["東京の病院で田中さんが手術を受けた"])
    assert said.close("田中さんが手術") == ERASED


def test_needles_have_the_forms_of_json() -> None:
    assert b"Gr\\u00fc\\u00dfe aus M\\u00fcnchen" in Quotes(["Grüße aus München"]).needles()
    assert Quotes(["short"]).needles() == []
