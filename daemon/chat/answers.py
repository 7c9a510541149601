"""Reports of a reasoning model's answers, without the thoughts in them."""

from __future__ import annotations

from dataclasses import replace

from daemon.chat.preparation import Preparation
from daemon.records import Report


def answers_only(report: Report, preparation: Preparation) -> Report:
    """The report with the thoughts removed from the flagged answer and from all corrections.

    Analysis, checks and training are about answers. A text that ends within its thoughts is an empty answer; an empty
    correction is none.
    """
    if preparation.tags is None:
        return report

    def answer(text: str) -> str:
        return preparation.split(text, opened=True).answer

    def correction(text: str | None) -> str | None:
        return None if text is None or not answer(text).strip() else answer(text)

    flagged = report.flagged
    shown = {"response": answer(flagged.response), "correction": correction(flagged.correction)}
    others = tuple(replace(part, correction=correction(part.correction)) for part in report.others)
    return replace(report, flagged=flagged.model_copy(update=shown), others=others)
