"""Whose reports support each other."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from connectors.messages import Checks, Severity
from daemon.config.trust import CorroborationConfig
from daemon.parts import Part
from daemon.records import Report, ReportState, Source, utcnow
from daemon.trust.corroboration import (
    MAX_VOICES,
    MAX_VOICES_PER_PRINCIPAL,
    Corroboration,
    Senders,
    corroborated,
    voices_of,
)
from tests.fixtures.config import flagged
from tests.fixtures.stores import lesson

NOW = utcnow()
RIGHT, ALSO_RIGHT, OTHER = "The capital is Canberra.", "Canberra is the capital.", "The capital is Melbourne."
QUESTION = [{"role": "user", "content": "What is the capital of Australia?"}]


def part(number: int, principal: str, **said: Any) -> Part:
    checks = said.pop("checks", None)
    values = {"reporter": f"person-{number}", "reason": "", "correction": None, **said}
    return Part(
        report_id=f"r{number}",
        principal=principal,
        received_at=NOW + timedelta(minutes=number),
        checks=None if checks is None else Checks(must_contain=checks),
        severity=Severity.MEDIUM,
        **values,
    )


def report(*others: Part, principal: str = "a", **own: Any) -> Report:
    return Report(
        id="r0",
        state=ReportState.LESSON,
        flagged=flagged(id="r0", messages=QUESTION, response="It is Sydney.", **own),
        source=Source(channel="http", principal=principal),
        received_at=NOW,
        updated_at=NOW,
        others=others,
    )


def senders(active: int = 2, **config: Any) -> Senders:
    return Senders(config=CorroborationConfig(**config), active=active, trusts=lambda name: name == "vouched")


def support(one: Report, *voices: Part, active: int = 2, correction: str | None = RIGHT) -> Corroboration:
    told = lesson(one.id, correction=correction, correction_source=correction and "user")
    return corroborated(one, told, voices, senders(active))


def test_two_principals_that_flag_the_same_answer_corroborate_the_mistake_only() -> None:
    assert support(report(part(1, "b"))) == Corroboration(mistake=True)


def test_another_correction_of_the_same_answer_corroborates_no_correction() -> None:
    one = report(part(1, "b", correction=OTHER), correction=RIGHT)
    assert support(one) == Corroboration(mistake=True)


def test_a_correction_that_says_the_same_corroborates_both() -> None:
    one = report(correction=RIGHT)
    assert support(one, part(1, "b", correction=ALSO_RIGHT)) == Corroboration(mistake=True, correction=True)


def test_the_same_checks_corroborate_the_mistake_and_not_the_text() -> None:
    one = report(correction=RIGHT, checks={"must_contain": ["Canberra"]})
    assert support(one, part(1, "b", checks=["Canberra"])) == Corroboration(mistake=True)
    assert support(one, part(1, "b", checks=["Melbourne"])) == Corroboration()


def test_reporters_of_one_untrusted_principal_never_corroborate() -> None:
    crowd = [part(number, "a", correction=RIGHT) for number in range(1, 60)]
    assert support(report(*crowd, correction=RIGHT), *crowd) == Corroboration()


def test_three_reporters_of_a_trusted_principal_corroborate_and_two_do_not() -> None:
    two = report(part(1, "vouched", correction=RIGHT), principal="vouched", correction=RIGHT)
    three = report(*two.others, part(2, "vouched", correction=ALSO_RIGHT), principal="vouched", correction=RIGHT)
    assert support(two, active=50) == Corroboration()
    assert support(three, active=50) == Corroboration(mistake=True, correction=True)


def test_one_reporter_who_repeats_himself_counts_once() -> None:
    again = [part(number, "vouched", reporter="same", correction=RIGHT) for number in range(1, 9)]
    assert support(report(*again, principal="vouched", correction=RIGHT, reporter="same")) == Corroboration()


def test_principals_must_be_more_than_a_third_of_the_active_ones() -> None:
    one = report(part(1, "b", correction=RIGHT), part(2, "c", correction=RIGHT), correction=RIGHT)
    assert support(one, active=8) == Corroboration(mistake=True, correction=True)
    assert support(one, active=9) == Corroboration()


def test_erratad_is_no_witness_of_its_own_mistakes() -> None:
    assert support(report(part(1, "induced", correction=RIGHT), correction=RIGHT)) == Corroboration()


def test_a_lesson_without_a_correction_has_none_to_corroborate() -> None:
    assert support(report(part(1, "b", correction=RIGHT)), correction=None) == Corroboration(mistake=True)


def test_voices_are_bounded_and_principals_come_in_turn() -> None:
    crowd = [part(number, "loud", correction=RIGHT) for number in range(1, 500)]
    others = [part(600 + number, f"p{number}", correction=RIGHT) for number in range(150)]
    voices = voices_of([report(*crowd, *others)])
    assert len(voices) == MAX_VOICES
    assert sum(voice.principal == "loud" for voice in voices) <= 1
    assert sum(voice.principal == "loud" for voice in voices_of([report(*crowd)])) == MAX_VOICES_PER_PRINCIPAL


def test_a_voice_that_says_nothing_takes_no_place() -> None:
    assert voices_of([report(part(1, "b"))]) == []
