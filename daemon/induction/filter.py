"""Decides which answers of an induction become reports. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime

from connectors.chat import Reply
from connectors.messages import WIRE_VERSION, FlaggedResponse, Severity
from daemon.induction.seeds import InductionQuestion
from daemon.labels import JUDGED, Drop
from daemon.records import INDUCED
from daemon.text.rules import failures, lasting
from daemon.text.words import normalised


def drop_reason(question: InductionQuestion, reply: Reply, judge: Callable[[str], bool | None]) -> Drop | None:
    """The reason to drop the answer, or None if it is bad and is kept. `judge` is called if the question has no checks.

    An answer that repeats the hint is dropped, because it would bring the hint into training. A cut-off answer is bad
    only if every longer answer would break the rules, too.
    """
    if not reply.text.strip():
        return Drop.EMPTY
    if normalised(question.hint.text) in normalised(reply.text):
        return Drop.REPEATS_HINT
    if question.checks is None:
        passed = judge(reply.text)
        return Drop.UNDECIDED if passed is None else Drop.GOOD if passed else None
    if not failures(question.checks, reply.text):
        return Drop.GOOD
    if reply.truncated and not question.seed.refuse and not failures(lasting(question.checks), reply.text):
        return Drop.CUT_OFF
    return None


def report_of(question: InductionQuestion, reply: Reply, *, at: datetime, judged: str = "") -> FlaggedResponse:
    """The report of a bad answer, with the instruction without the hint. `judged`: the judge's reason.

    Its id depends only on instruction and answer, so the same mistake gets the same id, even with another hint.
    """
    messages = [message.canonical() for message in question.seed.messages]
    digest = hashlib.sha256(json.dumps([messages, reply.text]).encode()).hexdigest()
    return FlaggedResponse(
        version=WIRE_VERSION,
        id=f"{INDUCED}-{digest[:32]}",
        occurred_at=at,
        model=reply.model,
        messages=list(question.seed.messages),
        response=reply.text,
        reason=question.hint.reason,
        category=question.hint.category,
        severity=Severity.LOW,
        checks=question.checks,
        reporter=INDUCED,
        metadata={"seed": question.seed.id, **({JUDGED: judged} if judged else {})},
    )
