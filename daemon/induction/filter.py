"""Which answers to questions that ask for mistakes are kept, and as what: pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime

from connectors.chat import Reply
from connectors.messages import WIRE_VERSION, Checks, FlaggedResponse, Severity
from daemon.induction.seeds import Question
from daemon.labels import Drop
from daemon.records import INDUCED
from daemon.text.rules import failures
from daemon.text.words import normalised


def sift(question: Question, reply: Reply, judge: Callable[[str], bool | None]) -> Drop | None:
    """None: the answer is bad, and is kept. `judge` is asked only where the question has no checks.

    An answer with the hint in it would carry the hint into training. Of an answer that was cut off only that is held
    against it which no further text could mend.
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
    if reply.truncated and not question.seed.refuse and not failures(_final(question.checks), reply.text):
        return Drop.CUT_OFF
    return None


def _final(checks: Checks) -> Checks:
    """The rules that a longer answer cannot meet any more once they are broken."""
    return Checks(must_not_contain=checks.must_not_contain, max_words=checks.max_words)


def flagged_of(question: Question, reply: Reply, *, at: datetime) -> FlaggedResponse:
    """The report of a bad answer to the instruction as it stands without the hint.

    Its id comes from instruction and answer alone: the same mistake found again, also with another hint, is known.
    """
    messages = [message.model_dump(mode="json") for message in question.seed.messages]
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
        metadata={"seed": question.seed.id},
    )
