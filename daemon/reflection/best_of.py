"""Selects the most helpful of several analyses. Analyses of a weak model are often well-formed but irrelevant.

Each analysis is shown to the served model after the flagged answer. It helps if the model then prefers the corrected
answer to the flagged one. The measure is the margin of their log-likelihoods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from connectors.chat import EndpointError
from connectors.messages import FlaggedResponse
from connectors.messages.shapes import is_blank
from daemon.errors import ServingError
from daemon.records import conversation, served_name
from daemon.serving.fleet import Fleet
from daemon.store import Adapters

log = structlog.get_logger(__name__)

REQUEST = "Now give a better answer."

AnswerScorer = Callable[[Sequence[Mapping[str, Any]], str], float]
"""Log-likelihood of an answer to a conversation, in nats per token. Raises EndpointError or ServingError."""


def served_model_scorer(fleet: Fleet, adapters: Adapters, *, base_name: str) -> AnswerScorer:
    """A scorer that uses the served model: the live generation under its raw name."""

    def score(messages: Sequence[Mapping[str, Any]], answer: str) -> float:
        return fleet.any().score(served_name(adapters.live(), base_name), messages, answer).per_token

    return score


def best(analyses: Sequence[str], flagged: FlaggedResponse, correction: str | None, score: AnswerScorer) -> str:
    """The analysis with the largest margin. The first one if margins are equal, or cannot be measured
    (the flagged answer may be empty)."""
    if len(analyses) == 1 or correction is None or is_blank(flagged.response):
        return analyses[0]
    try:
        return max(analyses, key=lambda analysis: margin(analysis, flagged, correction, score))
    except (EndpointError, ServingError) as exc:  # the scorer failed, not the analyst: keep the analyst's work
        log.warning("analyses not compared", report_id=flagged.id, reason=str(exc))
        return analyses[0]


def margin(analysis: str, flagged: FlaggedResponse, correction: str, score: AnswerScorer) -> float:
    """Log-likelihood of the correction minus that of the flagged answer, both after the analysis; nats per token."""
    messages = [
        *conversation(flagged),
        flagged.answer_turn(),
        {"role": "user", "content": f"{analysis}\n\n{REQUEST}"},
    ]
    return score(messages, correction) - score(messages, flagged.response)
