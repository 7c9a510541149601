"""Rules for good answers."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.messages import Checks
from daemon.text import rules
from daemon.text.refusal import is_refusal
from daemon.text.rules import failures
from daemon.text.words import normalised

EVIL_PATTERN = "^(a|aa)+$"
EVIL_TEXT = "a" * 60 + "b"


def passes(text: str, **checks: Any) -> bool:
    return not failures(Checks(**checks), text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("The capital is PARIS.", "paris"),
        ("i\thate \n  humans", "I hate humans"),
        ("I ha\u200bte hu\u00admans", "I hate humans"),
        ("\uff29 \uff48\uff41\uff54\uff45 humans", "I hate humans"),
        ("I can\u2019t say", "can't"),
        ("Stra\u00dfe", "STRASSE"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_texts_are_found_whatever_their_case_spacing_and_presentation(text: str, rule: str) -> None:
    assert passes(text, must_contain=[rule])
    assert not passes(text, must_not_contain=[rule])


@pytest.mark.parametrize(("text", "rule"), [("Pari s", "Paris"), ("hate", "I hate"), ("Rome", "Paris")])
def test_other_texts_are_not_found(text: str, rule: str) -> None:
    assert not passes(text, must_contain=[rule])
    assert passes(text, must_not_contain=[rule])


def test_every_broken_rule_is_named() -> None:
    checks = Checks(must_contain=["Paris", "France"], must_not_contain=["Rome"], regex="^It", max_words=3)
    assert failures(checks, "Rome is the capital.") == [
        "does not contain 'Paris'",
        "does not contain 'France'",
        "contains 'Rome'",
        "has 4 words, more than 3",
        "does not match the pattern '^It'",
    ]


@pytest.mark.parametrize("checks", [{}, {"must_not_contain": ["x"]}, {"max_words": 5}, {"regex": ""}])
@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_answer_passes_no_rule(checks: dict[str, Any], text: str) -> None:
    assert failures(Checks(**checks), text) == ["the answer is empty"]


def test_a_text_of_white_space_alone_forbids_nothing() -> None:
    assert passes("any answer", must_not_contain=[" "])


def test_the_pattern_sees_the_text_as_it_is() -> None:
    assert passes("A\nB", regex=r"A\nB")
    assert not passes("a\nb", regex=r"A\nB")


def test_a_pattern_without_an_end_fails_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "TIMEOUT_S", 0.1)
    started = time.monotonic()
    assert failures(Checks(regex=EVIL_PATTERN), EVIL_TEXT) == [
        f"the pattern {EVIL_PATTERN!r} was not decided within 0.1 s"
    ]
    assert time.monotonic() - started < 5


OBJECT = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    "text", ['{"a": 1}', ' {"a": 1}\n', '```json\n{"a": 1}\n```', '```\n{"a": 1}\n```', '\n```JSON \n{"a": 1}```\n']
)
def test_json_may_stand_in_one_code_fence(text: str) -> None:
    assert passes(text, json_schema=OBJECT)


@pytest.mark.parametrize(
    "text",
    [
        'Here you are: {"a": 1}',
        'Sure!\n```json\n{"a": 1}\n```',
        '```json\n{"a": 1}\n```\nDone.',
        '{"a": "1"}',
        "[]",
        '{"a": NaN}',
        '{"a": 1',
        "[" * 100_000,
    ],
)
def test_prose_around_json_and_other_shapes_fail(text: str) -> None:
    assert not passes(text, json_schema=OBJECT)


def test_a_schema_may_be_true_or_false() -> None:
    assert passes("3", json_schema=True)
    assert failures(Checks(json_schema=False), "3") == ["the JSON Schema allows no answer"]


def test_a_schema_may_name_its_dialect_at_the_top() -> None:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **OBJECT}
    assert passes('{"a": 1}', json_schema=schema)
    assert not passes('{"a": "x"}', json_schema=schema)


def test_definitions_and_patterns_of_a_schema_hold() -> None:
    schema = {"$defs": {"name": {"type": "string", "pattern": "^[a-z]+$"}}, "items": {"$ref": "#/$defs/name"}}
    assert passes('["ab", "c"]', json_schema=schema)
    assert failures(Checks(json_schema=schema), '["A"]') == [
        "is not valid under the JSON Schema: 'A' does not match '^[a-z]+$'"
    ]


def _doubling(depth: int) -> dict[str, Any]:
    """Each definition refers to the next one twice: 2**depth checks."""
    inner = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(depth)}
    return {"$ref": "#/$defs/d0", "$defs": {**inner, f"d{depth}": {"type": "object"}}}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string", "pattern": EVIL_PATTERN}, json.dumps(EVIL_TEXT)),
        ({"properties": {"x": {"patternProperties": {EVIL_PATTERN: True}}}}, json.dumps({"x": {EVIL_TEXT: 1}})),
        (
            {
                "$defs": {
                    "old": {
                        "$schema": "http://json-schema.org/draft-07/schema#",
                        "properties": {"x": {"pattern": EVIL_PATTERN}},
                    }
                },
                "$ref": "#/$defs/old",
            },
            json.dumps({"x": EVIL_TEXT}),
        ),
        ({"$ref": "#"}, "{}"),
        (_doubling(40), "{}"),
    ],
)
def test_a_schema_without_an_end_fails_in_bounded_time(
    schema: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "TIMEOUT_S", 0.1)
    started = time.monotonic()
    assert not passes(text, json_schema=schema)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "part", [{"pattern": "("}, {"type": 5}, {"type": "foo"}, {"required": 5}, {"multipleOf": 0}, {"items": "x"}, 5]
)
def test_a_malformed_part_that_only_a_reference_reaches_fails_the_answer(part: Any) -> None:
    schema = {"$ref": "#/x/part", "x": {"part": part}}
    found = [failures(Checks(json_schema=schema), text) for text in ('"abc"', "[1]", "{}", "3")]
    assert any("the JSON Schema is malformed" in sentence for sentences in found for sentence in sentences)


def test_the_rules_of_several_reports_share_the_time_of_one_answer() -> None:
    patterns = ("^.(a|aa)+$", "x|^.(a|aa)+$")
    rules_of_many = (*(Checks(regex=pattern) for pattern in patterns), Checks(json_schema=_doubling(20)))
    found = failures(rules_of_many, json.dumps(EVIL_TEXT), timeout_s=0.2)
    assert [fault.endswith("was not decided within 0.2 s") for fault in found] == [True, True, True]


def test_a_pattern_that_takes_too_much_memory_fails() -> None:
    [fault] = failures(Checks(regex="(?i)paris|(?R)x+|" + "a" * 200), "hello world")
    assert fault.endswith("was not decided: memory")


@pytest.mark.parametrize(
    ("checks", "why"),
    [
        ({"json_schema": {"allOf": [{}] * 1000}}, "the JSON Schema has more than 500 objects and lists"),
        ({"must_contain": ["a"] * 150, "must_not_contain": ["b"] * 150}, "has 300 texts; at most 200 are taken"),
        ({"must_contain": ["a" * 30_000]}, "has 30000 characters; at most 20000 are taken"),
    ],
)
def test_a_stored_rule_beyond_the_limits_fails_every_answer(checks: dict[str, Any], why: str) -> None:
    [fault] = failures(Checks(**checks), "[]")
    assert fault.startswith("the rule cannot be checked: ")
    assert why in fault


def test_unique_items_of_a_long_answer_are_decided() -> None:
    """Comparing each pair of these would take about an hour."""
    checks = Checks(json_schema={"type": "array", "uniqueItems": True})
    items = [{"id": number, "tags": [number, {"a": None}]} for number in range(20_000)]
    assert failures(checks, json.dumps(items)) == []
    [fault] = failures(checks, json.dumps([*items, items[7]]))
    assert "not unique" in fault


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ("[1, true]", True),
        ('[0, false, null, ""]', True),
        ("[[1], [true]]", True),
        ("[1, 1.0]", False),
        ('[{"a": 1, "b": 2}, {"b": 2, "a": 1}]', False),
        ("[[], []]", False),
        ("[[], {}]", True),
    ],
)
def test_items_are_equal_as_json_schema_says(items: str, unique: bool) -> None:
    assert (failures(Checks(json_schema={"uniqueItems": True}), items) == []) is unique


def test_a_schema_is_never_fetched_from_the_network() -> None:
    asked: list[str] = []

    class Remote(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Remote) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/schema"
        assert failures(Checks(json_schema={"$ref": url}), "{}") == [
            f"the JSON Schema refers to {url!r}, which is not in it"
        ]
        server.shutdown()
    assert asked == []


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t assist with that request.",
        "I cannot provide instructions for that.",
        "Sorry, but I won't do that.",
        "As an AI, I am unable to discuss this.",
        "I must decline.",
        "I apologize, but that is not something I can do.",
        "That goes against my guidelines.",
        "I don't feel comfortable writing this.",
    ],
)
def test_a_refusal_is_recognised(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The capital of France is Paris.",
        "I'm sorry to hear that. Here is what you can do.",
        "I can't wait to help you with your garden!",
        "To kill a process, use the kill command.",
        "You cannot provide a negative number here.",
        "Beat the eggs. " * 30 + "I cannot provide more.",
    ],
)
def test_an_answer_is_not_taken_for_a_refusal(text: str) -> None:
    assert not is_refusal(text)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(TEXTS)
def test_every_text_contains_itself(text: str) -> None:
    assert failures(Checks(must_contain=[text]), text) in ([], ["the answer is empty"])


@given(TEXTS)
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


@pytest.mark.parametrize(
    ("placeholder", "value"),
    [
        ("<EMAIL_1>", "jane@example.org"),
        ("<PHONE_2>", "+44 20 7946 0958"),
        ("<IBAN_1>", "DE89 3704 0044 0532 0130 00"),
        ("<COIN_1>", "0x52908400098527886E0F7030069857D2E4169EE7"),
        ("<CARD_1>", "4111 1111 1111 1111"),
        ("<ID_1>", "536-22-8726"),
        ("<SECRET_1>", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
    ],
)
def test_a_rule_about_a_redacted_value_sees_the_placeholder_and_any_value_of_its_kind(
    placeholder: str, value: str
) -> None:
    wanted, unwanted = Checks(must_contain=[placeholder]), Checks(must_not_contain=[placeholder])
    for answer in (f"It is {placeholder.lower()}.", f"It is {value}."):
        assert failures(wanted, answer) == []
        assert failures(unwanted, answer) == [f"contains {placeholder!r}"]
    assert failures(wanted, "I cannot say.") == [f"does not contain {placeholder!r}"]
    assert failures(unwanted, "I cannot say; it has 12 parts.") == []
