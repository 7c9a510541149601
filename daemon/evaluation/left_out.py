"""The items of an evaluation that cannot be measured, with the reasons."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from connectors.guidance import with_guidance
from daemon.chat.reader import Question
from daemon.chat.readings import Asked, Limit, Session
from daemon.evaluation.measurement import EvalRequest, key_of
from daemon.evaluation.suites import Item
from daemon.labels import LeftOut, Suite
from daemon.left_out import LeftOutBy, LeftOutReport
from daemon.records import Answer
from daemon.store.runs import REPORT_SUITES


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutItem:
    suite: Suite
    id: str
    reason: LeftOut
    detail: str


def readable(
    items: Iterable[Item], session: Session, *, limit: Limit, guidance: str
) -> tuple[list[Item], list[LeftOutItem]]:
    """The items that the chat template renders and that fit `limit`, with and without the guidance; and the others."""
    asked = [(item, _asked(item, limit, guidance)) for item in items]
    session.read(one for _, forms in asked for one in forms)
    kept, left_out = [], []
    for item, forms in asked:
        refusal = session.refusal(forms)
        if refusal is None:
            kept.append(item)
        else:
            left_out.append(LeftOutItem(suite=item.suite, id=item.id, reason=refusal.reason, detail=refusal.detail))
    return kept, left_out


def _asked(item: Item, limit: Limit, guidance: str) -> list[Asked]:
    """The forms in which servers get the item. A drift text is scored as the base model's answer, without guidance."""
    if item.suite is Suite.DRIFT:
        question = Question(messages=item.messages, completion=item.good, ends=False, by_model=True)
        return [Asked(question, limit)]
    forms = {guided: tuple(with_guidance(item.messages, guidance if guided else "")) for guided in (False, True)}
    return [Asked(Question(messages=messages), limit) for messages in forms.values()]


def unanswered(
    requests: Iterable[EvalRequest], answers: Iterable[Answer], refusals: Mapping[tuple[str, str], str]
) -> list[LeftOutItem]:
    """The items that a server refused in one form at least. `refusals`: its words by suite and item."""
    answered = {key_of(answer) for answer in answers}
    missing = {(one.item.suite, one.item.id) for one in requests if one.key not in answered}
    return [
        LeftOutItem(suite=suite, id=item, reason=LeftOut.SERVER_REFUSES, detail=refusals.get((suite, item), ""))
        for suite, item in sorted(missing)
    ]


def counts(left_out: Iterable[LeftOutItem]) -> dict[str, dict[str, int]]:
    """By suite and reason."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for one in left_out:
        counted[one.suite.value][one.reason.value] += 1
    return {suite: dict(reasons) for suite, reasons in counted.items()}


def account(run_id: int, left_out: Sequence[LeftOutItem]) -> list[LeftOutReport]:
    """For the store: the reports among the items."""
    return [
        LeftOutReport(run_id=run_id, report_id=one.id, stage=LeftOutBy.EVALUATION, reason=one.reason, detail=one.detail)
        for one in left_out
        if one.suite in REPORT_SUITES
    ]
