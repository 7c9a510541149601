"""Redaction of a report: consistent, with checks that still fit, idempotent, and with pseudonyms for reporters."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from connectors.messages import FlaggedResponse, decode
from daemon.config import Config
from daemon.privacy import detect, redact
from daemon.privacy.detect import Detector
from daemon.privacy.keys import Keys
from daemon.privacy.redact import Redactor
from daemon.privacy.sealed import unseal
from daemon.text.content import correction_fault
from tests.fixtures.config import flagged

MAIL, PHONE, CARD = "Jane.Doe@example.org", "+44 20 7946 0958", "4111 1111 1111 1111"


@pytest.fixture
def redactor(make_config: Callable[..., Config]) -> Redactor:
    return Redactor(make_config())


def private(**changes: object) -> FlaggedResponse:
    values = {
        "messages": [{"role": "user", "content": f"I am {MAIL}. Ring {PHONE} or +442079460958; card {CARD}."}],
        "response": f"I have written down {MAIL.lower()} and {CARD}.",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "mail", "arguments": json.dumps({"to": MAIL})}}
        ],
        "reason": f"it repeats {PHONE}",
        "follow_up": f"No, I am {MAIL}, not {MAIL}x.",
        "correction": f"I shall write to {MAIL}.",
        "checks": {"must_contain": [MAIL.upper()], "must_not_contain": [CARD], "max_words": 9},
        "metadata": {"by": {MAIL: [PHONE, 7]}},
        "reporter": MAIL,
        "tenant": "acme",
    }
    return flagged(**values | changes)


def test_the_same_value_gets_the_same_placeholder_in_every_field(redactor: Redactor) -> None:
    clean = redactor.redact(private()).flagged
    assert clean.messages[0].text == "I am <EMAIL_1>. Ring <PHONE_1> or <PHONE_1>; card <CARD_1>."
    assert clean.response == "I have written down <EMAIL_1> and <CARD_1>."
    assert clean.tool_calls is not None
    assert clean.tool_calls[0]["function"] == {"name": "mail", "arguments": '{"to": "<EMAIL_1>"}'}
    assert (clean.reason, clean.correction) == ("it repeats <PHONE_1>", "I shall write to <EMAIL_1>.")
    assert clean.follow_up == "No, I am <EMAIL_1>, not <EMAIL_2>."
    assert clean.checks is not None
    assert (clean.checks.must_contain, clean.checks.must_not_contain) == (["<EMAIL_1>"], ["<CARD_1>"])
    assert clean.metadata == {"by": {"<EMAIL_1>": ["<PHONE_1>", 7]}}
    assert clean.tenant == "acme"
    text = clean.model_dump_json().casefold()
    assert not any(value.casefold() in text for value in (MAIL, PHONE, CARD))


def test_a_reporter_that_is_an_address_becomes_a_pseudonym_that_is_always_the_same(
    redactor: Redactor, make_config: Callable[..., Config]
) -> None:
    first, second = (redactor.redact(flagged(reporter=name)).flagged.reporter for name in (MAIL, f" {MAIL.lower()}"))
    assert first == second
    assert first.startswith("person-")
    assert Redactor(make_config()).redact(flagged(reporter=MAIL)).flagged.reporter == first  # the key is kept
    assert redactor.redact(flagged(reporter="bob@example.org")).flagged.reporter != first
    assert redactor.redact(flagged(reporter="anna")).flagged.reporter == "anna"


def test_a_report_without_personal_data_stays_the_same_object(redactor: Redactor) -> None:
    message = flagged()
    clean = redactor.redact(message)
    assert clean.flagged is message
    assert clean.fingerprint == message.fingerprint()


def test_a_redelivery_is_known_whatever_the_configuration_was(
    redactor: Redactor, make_config: Callable[..., Config]
) -> None:
    message = private()
    stored = redactor.redact(message)
    assert stored.fingerprint not in {message.fingerprint(), stored.flagged.fingerprint()}  # it needs the key
    off = Redactor(make_config(privacy={"redact": dict.fromkeys(("email", "phone", "card", "id"), False)}))
    for earlier in (stored.fingerprint, message.fingerprint()):
        for later in (redactor.redact(message), off.redact(message)):
            assert earlier in later.known_as
    assert stored.fingerprint not in redactor.redact(private(reason="another")).known_as


def test_two_reports_of_one_answer_are_still_of_one_answer(redactor: Redactor) -> None:
    first = redactor.redact(private()).flagged
    second = redactor.redact(private(reason="bob@example.org is not mine", checks=None, correction=None)).flagged
    assert first.content_key() == second.content_key()
    assert second.reason == "<EMAIL_2> is not mine"


@pytest.mark.parametrize(
    ("checks", "left"),
    [
        ({"must_contain": ["7946 0958"]}, {"must_contain": ["<PHONE_1>"]}),
        ({"must_contain": ["shall write"]}, {"must_contain": ["shall write"]}),
        ({"must_contain": ["example"]}, {"must_contain": ["<EMAIL_1>"]}),
        ({"regex": r"Jane\.Doe@example\.org"}, {}),
        ({"regex": r"\d{4} \d{4} \d{4} \d{4}"}, {}),
        ({"regex": r"write to .+"}, {"regex": r"write to .+"}),
        ({"json_schema": {"const": MAIL}}, {"json_schema": {"const": "<EMAIL_1>"}}),
    ],
)
def test_rules_about_a_redacted_value_follow_it_or_go(redactor: Redactor, checks: dict, left: dict) -> None:
    clean = redactor.redact(private(checks=checks)).flagged
    assert clean.checks is not None
    assert clean.checks.model_dump(exclude_defaults=True) == left


def test_placeholders_of_the_sender_are_not_mixed_up_with_new_ones(redactor: Redactor) -> None:
    clean = redactor.redact(flagged(response=f"<EMAIL_3> is not {MAIL}")).flagged
    assert clean.response == "<EMAIL_3> is not <EMAIL_4>"
    again = redactor.redact(clean)
    assert again.flagged is clean


def test_a_contact_that_only_the_correction_has_is_still_refused(redactor: Redactor) -> None:
    clean = redactor.redact(private(correction="Write to evil@example.net.", checks=None)).flagged
    assert clean.correction == "Write to <EMAIL_2>."
    finding = correction_fault(clean.correction, clean, rules=None)
    assert finding is not None
    assert finding.fault == "new_contact"


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (json.dumps({"id": "a", "note": f"\njane\n{MAIL}"}), json.dumps({"id": "a", "note": "\njane\n<EMAIL_1>"})),
        (f'{{"broken": "{MAIL} or {PHONE}', '{"broken": "<EMAIL_1> or <PHONE_1>'),
        ('{"id":  "kept as it is"}', '{"id":  "kept as it is"}'),
    ],
)
def test_a_letter_is_redacted_as_json_or_as_text(redactor: Redactor, value: str, left: str) -> None:
    assert redactor.letter(value.encode()).decode() == left


def test_a_letter_that_is_no_text_keeps_its_other_bytes(redactor: Redactor) -> None:
    assert redactor.letter(b"\xff\xfe " + MAIL.encode() + b" \x80") == b"\xff\xfe <EMAIL_1> \x80"


def test_the_original_is_kept_encrypted_only_where_that_is_configured(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, redactor: Redactor
) -> None:
    monkeypatch.setenv("PRIVACY", "k" * 40)
    config = make_config(privacy={"keep_original": True, "key_env": "PRIVACY"})
    message = private()
    assert redactor.redact(message).sealed is None
    assert Redactor(config).redact(flagged()).sealed is None  # nothing was redacted
    sealed = Redactor(config).redact(message).sealed
    assert sealed is not None
    assert MAIL.encode() not in sealed
    assert decode(unseal(sealed, message.id, Keys.of(config))) == message


def test_originals_need_a_key_that_lies_elsewhere(make_config: Callable[..., Config]) -> None:
    with pytest.raises(ValueError, match="keep_original needs key_env"):
        make_config(privacy={"keep_original": True})


def test_a_batch_is_redacted_as_its_reports_are_alone(redactor: Redactor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "SEARCHED_CHARACTERS", 400)  # several parts
    batch = [
        flagged(),
        private(),
        flagged(metadata={MAIL: 1}),
        flagged(reporter=MAIL),
        flagged(checks={"regex": r"jane\.doe@example\.org"}),
        flagged(response="x" * 500),
        flagged(correction=f"Ring {PHONE}."),
        flagged(),
    ]
    alone = [redactor.redact(message) for message in batch]
    together = redactor.redact_all(batch)
    assert together == alone
    assert [bool(one.counts) for one in together] == [False, True, True, True, True, False, True, False]


def test_reports_without_personal_data_are_searched_together(
    redactor: Redactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []
    find = Detector.find
    monkeypatch.setattr(Detector, "find", lambda self, *given: searched.append(given[0]) or find(self, *given))
    batch = [flagged() for _ in range(50)]
    assert [one.flagged for one in redactor.redact_all(batch)] == batch
    assert len(searched) == 1


def test_a_report_is_searched_once_however_many_texts_it_has(
    redactor: Redactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []
    find = Detector.find
    monkeypatch.setattr(Detector, "find", lambda self, *given: searched.append(given[0]) or find(self, *given))
    many = flagged(metadata={"many": [f"user{number % 50}@example.org" for number in range(5000)]})
    assert redactor.redact(many).flagged.metadata["many"][50:52] == ["<EMAIL_1>", "<EMAIL_2>"]
    assert len(searched) <= 3  # to see whether there is anything, the texts together, and the reporter's name


def test_a_report_with_more_than_can_be_redacted_is_marked_and_its_letter_empty(
    redactor: Redactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "MAX_PLACES", 3)
    message = flagged(response=" ".join(f"u{number}@example.org" for number in range(4)))
    found = redactor.redact(message)
    assert found.too_much
    assert redactor.clean(message) is message
    with pytest.raises(detect.TooMuchError):
        redactor.letter(message.encode())


def test_a_pattern_that_takes_too_long_on_a_redacted_value_is_left_out(redactor: Redactor) -> None:
    slow = {"regex": "(?:a|aa)+$x"}
    clean = redactor.redact(flagged(response="a" * 60 + "@example.org", checks=slow)).flagged
    assert clean.checks is not None
    assert clean.checks.regex is None


def test_a_field_that_placeholders_make_too_long_is_cut_before_one(redactor: Redactor) -> None:
    clean = redactor.redact(flagged(reason="a@b.co " * 571)).flagged
    assert clean.reason is not None
    assert 3990 <= len(clean.reason) <= 4000
    assert clean.reason.strip().endswith("<EMAIL_1>")
    assert "@" not in clean.reason


def test_a_schema_that_a_placeholder_makes_invalid_refuses_the_report_and_breaks_nothing(redactor: Redactor) -> None:
    schema = {"pattern": "[DE89370400440532013000-9]"}
    assert redactor.redact(flagged(checks={"json_schema": schema})).too_much
