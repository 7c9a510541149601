"""What is found in texts, what is not, and that no text takes long."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from importlib import resources

import pytest
import regex

from daemon.config.privacy import RedactConfig
from daemon.labels import PersonalData
from daemon.privacy import detect
from daemon.privacy.detect import MAX_PEM, Detector, TooMuchError

KNOWN = (
    "mail Jane.Doe+x@example.co.uk, now",
    "ring +44 20 7946 0958 or (212) 555-0147",
    "089/1234567",
    "IBAN DE89 3704 0044 0532 0130 00 thanks",
    "card 4111-1111-1111-1111 exp 12/27",
    "SSN 536-22-8726",
    "token ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "0x52908400098527886E0F7030069857D2E4169EE7",
)
DETECTOR = Detector(RedactConfig().kinds, RedactConfig().regions)


def found(text: str, detector: Detector = DETECTOR) -> list[tuple[str, str]]:
    return [(one.kind.value, text[one.start : one.end]) for one in detector.find(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail Jane.Doe+x@example.co.uk, now", [("email", "Jane.Doe+x@example.co.uk")]),
        ("schreib an jürgen@müller.example", [("email", "jürgen@müller.example")]),
        ("ring +44 20 7946 0958 or (212) 555-0147", [("phone", "+44 20 7946 0958"), ("phone", "(212) 555-0147")]),
        ("089/1234567", [("phone", "089/1234567")]),
        ("IBAN DE89 3704 0044 0532 0130 00 thanks", [("iban", "DE89 3704 0044 0532 0130 00")]),
        ("card 4111-1111-1111-1111 exp 12/27", [("card", "4111-1111-1111-1111")]),
        ("SSN 536-22-8726", [("id", "536-22-8726")]),
        ("IdNr 86 095 742 719", [("id", "86 095 742 719")]),
        ("token ghp_abcdefghijklmnopqrstuvwxyz0123456789", [("secret", "ghp_abcdefghijklmnopqrstuvwxyz0123456789")]),
        ("AWS AKIAIOSFODNN7EXAMPLE", [("secret", "AKIAIOSFODNN7EXAMPLE")]),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
            [("secret", "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----")],
        ),
        ("0x52908400098527886E0F7030069857D2E4169EE7", [("coin", "0x52908400098527886E0F7030069857D2E4169EE7")]),
        # no personal data
        ("born 1990-01-02, order 4532 of 12.05.2024 at 10:30", []),
        ("1800 - 1170 = 630", []),
        ("card 4111-1111-1111-1112, IBAN DE89 3704 0044 0532 0130 05", []),
        ("see https://en.wikipedia.org/wiki/1984_New_York_City_Subway_shooting", []),
        ("version 1.2.3.4, array[1234567], 3.14159265358979", []),
        ("me @ home, user@localhost", []),
    ],
)
def test_what_is_found(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


def test_the_same_number_has_one_value_however_it_is_written() -> None:
    written = "+44 20 7946 0958, +442079460958 and (+44) 20-7946-0958"
    assert {one.value for one in DETECTOR.find(written)} == {"2079460958"}


def test_kinds_and_regions_are_configured() -> None:
    assert found("192.168.0.1 and 2001:db8::1", Detector([PersonalData.IP], [])) == [
        ("ip", "192.168.0.1"),
        ("ip", "2001:db8::1"),
    ]
    assert found("a@example.org 089/1234567", Detector([PersonalData.PHONE], ["US"])) == []


@pytest.mark.parametrize(
    "name", ["demo_scenario", "golden", "golden_pairs", "replay_prompts", "over_refusal", "under_attack"]
)
def test_nothing_is_found_in_the_shipped_texts(name: str) -> None:
    path = resources.files("daemon") / "data" / f"{name}.jsonl"
    lines = [json.dumps(json.loads(line), ensure_ascii=False) for line in path.read_text().splitlines() if line.strip()]
    assert [hit for line in lines for hit in found(line)] == []


@pytest.mark.parametrize("text", ["1 " * 30_000, "1234567890 " * 5_000, "DE89 3704 0044 " * 4_000, "a@b.co " * 8_000])
def test_a_text_full_of_numbers_is_bounded_and_all_of_it_goes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lookups, checks = [], []
    lookup, check = detect._phones_of, detect._is_valid
    monkeypatch.setattr(detect, "_phones_of", lambda *given: lookups.append(given) or lookup(*given))
    monkeypatch.setattr(detect, "_is_valid", lambda *given: checks.append(given) or check(*given))
    places = DETECTOR.find(text)
    assert len(lookups) <= detect.MAX_TRIES
    assert len(checks) <= detect.MAX_CHECKED
    assert all(one.end <= other.start for one, other in itertools.pairwise(places))
    if text.startswith("1234567890"):
        assert len(places) > 2_000


def test_more_of_a_kind_than_can_be_replaced_is_refused() -> None:
    with pytest.raises(TooMuchError):
        DETECTOR.find("a@b.co " * (detect.MAX_PLACES + 1))


def test_all_values_of_a_random_text_go_whatever_stands_between_them() -> None:
    chance = random.Random(7)
    values = [text[start:end] for text, _, start, end in _known_values()]
    for _ in range(300):
        text = "".join(chance.choice(values) + chance.choice([", ", "\n", "; "]) for _ in range(12))
        left = list(text)
        for one in DETECTOR.find(text):
            left[one.start : one.end] = " " * (one.end - one.start)
        assert not regex.search(r"\p{L}|\p{N}", "".join(left)), text


def _known_values() -> Iterator[tuple[str, str, int, int]]:
    for text in KNOWN:
        for one in DETECTOR.find(text):
            yield text, one.kind, one.start, one.end


def test_what_two_kinds_claim_in_part_goes_as_a_whole() -> None:
    text = "//r/:_authToken=npm_x12345678 DE89 3704 0044 0532 0130 00 tail"
    assert found(text) == [
        ("secret", "npm_x12345678 "),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("secret", " tail"),
    ]


@pytest.mark.parametrize("text", ["DE89" + "\u212a" * 18, "\u017fSMRA85T10A562S", "ABCDE\u0663\u0664\u0665\u0666F"])
def test_letters_and_digits_of_other_scripts_break_no_check(text: str) -> None:
    every = Detector(list(PersonalData), list(detect._IDS))
    assert all(one.end <= len(text) for one in every.find(text))


@pytest.mark.parametrize(
    ("between", "is_key"),
    [("\nMIIabc\n", True), ("A" * MAX_PEM, True), ("A" * (MAX_PEM + 1), False), ("\n{not a key}\n", False)],
)
def test_a_private_key_is_found_from_its_first_line_to_its_last(between: str, is_key: bool) -> None:
    key = f"-----BEGIN EC PRIVATE KEY-----{between}-----END EC PRIVATE KEY-----"
    many = "-----BEGIN EC PRIVATE KEY-----" * 3000 + "{"
    assert (("secret", key) in found(many + key)) is is_key
