"""What waits for a person's review, as data for the API, the command line and the console."""

from __future__ import annotations

from typing import Self

from connectors.messages import ChatMessage, Checks
from daemon.operations.shown import View
from daemon.operations.views import ReportRow, SameAnswerView
from daemon.records import Lesson, Report
from daemon.store import Store


class ReviewView(View):
    """One report as a reviewer sees it. `lesson` is the analysis to approve."""

    report: ReportRow
    messages: list[ChatMessage]
    response: str
    shown_response: str
    """The flagged answer for people: its text and its tool calls."""
    user_correction: str | None
    checks: Checks | None
    same_answer: SameAnswerView | None
    lesson: Lesson | None

    @classmethod
    def of(cls, report: Report, lesson: Lesson | None) -> Self:
        return cls(
            report=ReportRow.of(report),
            messages=report.messages,
            response=report.flagged.response,
            shown_response=report.flagged.shown_response,
            user_correction=report.flagged.correction,
            checks=report.flagged.checks,
            same_answer=SameAnswerView.of(report),
            lesson=lesson,
        )


class ReviewQueueView(View):
    """The reviews to do: the number of each kind, and the first items of each kind."""

    quarantined_waiting: int
    set_aside_waiting: int
    analyses_waiting: int
    quarantined: list[ReviewView]
    set_aside: list[ReviewView]
    """Analyses whose reports have a correction or checks that are set aside; heaviest first, bounded."""
    analyses: list[ReviewView]


def review_queue(store: Store, *, limit: int) -> ReviewQueueView:
    """Read at most `limit` items of each kind."""
    waiting = store.reviews.waiting()
    return ReviewQueueView(
        quarantined_waiting=waiting.quarantined,
        set_aside_waiting=waiting.set_aside,
        analyses_waiting=waiting.analyses,
        quarantined=[ReviewView.of(report, None) for report in store.reviews.quarantined(limit=limit)],
        set_aside=[ReviewView.of(report, lesson) for report, lesson in store.reviews.set_aside(limit=limit)],
        analyses=[ReviewView.of(report, lesson) for report, lesson in store.reviews.analyses(limit=limit)],
    )
