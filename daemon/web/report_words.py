"""A report's state in words, for the one who sent it; without content, and without what operators note."""

from __future__ import annotations

from daemon.records import Report, ReportState

_WORDS = {
    ReportState.QUEUED: "received; it waits for its analysis",
    ReportState.REFLECTING: "being analysed now",
    ReportState.LESSON: "understood; it waits for the next training",
    ReportState.RECURRING: "not fixed: the latest generation that was measured on it still answers badly",
    ReportState.DUPLICATE: "known already: another report flags the same answer",
    ReportState.QUARANTINED: "set aside for a person to review",
    ReportState.BURIED: "set aside: it could not be analysed",
    ReportState.ERASED: "erased on request",
}


def in_words(report: Report) -> str:
    if report.state == ReportState.RESOLVED:
        return f"fixed in generation {report.resolved_generation}"
    return _WORDS[report.state]
