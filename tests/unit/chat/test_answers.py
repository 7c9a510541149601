"""Thoughts in reported texts."""

from __future__ import annotations

from datetime import UTC, datetime

from connectors.messages import Severity
from daemon.chat.answers import answers_only
from daemon.chat.preparation import Preparation
from daemon.parts import Part
from daemon.records import Report, ReportState, Source
from tests.fixtures.config import flagged

THINKS = Preparation(tags=("<think>", "</think>"))
NOW = datetime(2026, 11, 27, tzinfo=UTC)


def _report(response: str, correction: str | None, *others: str) -> Report:
    parts = tuple(
        Part(
            report_id=f"other-{number}",
            principal="http",
            reporter=f"user-{number}",
            received_at=NOW,
            reason="",
            correction=text,
            checks=None,
            severity=Severity.MEDIUM,
        )
        for number, text in enumerate(others)
    )
    told = flagged().model_copy(update={"response": response, "correction": correction})
    return Report(
        id=told.id,
        state=ReportState.QUEUED,
        flagged=told,
        source=Source(channel="test"),
        received_at=NOW,
        updated_at=NOW,
        others=parts,
    )


def test_thoughts_are_taken_out_of_the_flagged_answer_and_of_every_correction() -> None:
    report = answers_only(
        _report("<think>Sydney?</think>\n\nSydney.", "hm</think>Canberra.", "<think>a</think>Canberra, ACT."), THINKS
    )
    assert report.flagged.response == "Sydney."
    assert report.flagged.correction == "Canberra."
    assert [part.correction for part in report.others] == ["Canberra, ACT."]


def test_a_text_that_ends_within_its_thoughts_is_an_empty_answer_and_no_correction() -> None:
    report = answers_only(_report("<think>It is Canber", "<think>Canberra is", "<think>Can"), THINKS)
    assert report.flagged.response == ""
    assert report.flagged.correction is None
    assert [part.correction for part in report.others] == [None]


def test_without_tags_of_thoughts_nothing_changes() -> None:
    report = _report("<think>a</think>b", "<think>c</think>d")
    assert answers_only(report, Preparation()) is report
