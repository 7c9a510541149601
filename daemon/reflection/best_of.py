"""Of several analyses of one mistake the one that helps: a weak model's are often beside the point, if well-formed.

An analysis helps when the served model, shown it after its flagged answer, prefers the corrected answer to the flagged
one. How much it does is the margin of their log-likelihoods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from connectors.chat import EndpointError
from connectors.messages import FlaggedResponse
from daemon.errors import ServingError
from daemon.records import conversation, served_name
from daemon.serving.fleet import Fleet
from daemon.store import Adapters

log = structlog.get_logger(__name__)

REQUEST = "Now give a better answer."

Score = Callable[[Sequence[Mapping[str, Any]], str], float]
"""Log-likelihood of an answer to a conversation, in nats per token; raises EndpointError or ServingError."""


def scored_by(fleet: Fleet, adapters: Adapters, *, base_name: str) -> Score:
    """Scores of the served model: the live generation under its raw name."""

    def score(messages: Sequence[Mapping[str, Any]], answer: str) -> float:
        return fleet.any().score(served_name(adapters.live(), base_name), messages, answer).per_token

    return score


def best(analyses: Sequence[str], flagged: FlaggedResponse, correction: str | None, score: Score) -> str:
    """The analysis of the largest margin; the first of equal ones, without a correction, and where nothing scores."""
    if len(analyses) == 1 or correction is None:
        return analyses[0]
    try:
        return max(analyses, key=lambda analysis: margin(analysis, flagged, correction, score))
    except (EndpointError, ServingError) as exc:  # the analyst, perhaps another model, did its part
        log.warning("analyses not compared", report_id=flagged.id, reason=str(exc))
        return analyses[0]


def margin(analysis: str, flagged: FlaggedResponse, correction: str, score: Score) -> float:
    """How much likelier the corrected answer is than the flagged one after the analysis, in nats per token of each."""
    messages = [
        *conversation(flagged),
        {"role": "assistant", "content": flagged.response},
        {"role": "user", "content": f"{analysis}\n\n{REQUEST}"},
    ]
    return score(messages, correction) - score(messages, flagged.response)
