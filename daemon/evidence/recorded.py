"""Completes a short form with what a server recorded of the completion. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from connectors.messages import FlaggedResponse, MessageRejected, Rating, decode
from connectors.messages.short import UNTIMED
from connectors.vllm_wire import Exchange, Said
from daemon.chat.preparation import Preparation
from daemon.evidence.exchange import asked_in
from daemon.labels import Lost

AWAITED_FIELDS = {"messages", "response", "model", "not_trainable"}


class LostError(Exception):
    """The record cannot complete the message."""

    def __init__(self, lost: Lost) -> None:
        super().__init__(lost)
        self.lost = lost


def completed(
    flagged: FlaggedResponse,
    exchanges: Sequence[Exchange],
    preparation: Preparation,
    *,
    received_at: datetime,
    max_bytes: int,
) -> FlaggedResponse:
    """The message with conversation, answer and generation of the only exchange, checked like one that came whole.

    Args:
        received_at: Its time, if it names none.
        max_bytes: The bound of intake.

    Raises:
        LostError: The record is not clear, or no report can be made of it.
    """
    exchange = _only(exchanges)
    if exchange.request.get("previous_response_id"):
        raise LostError(Lost.CONTINUES)
    said = _choice(flagged, exchange)
    if flagged.rating is Rating.UP and (exchange.partial or exchange.forced):
        raise LostError(Lost.NOT_OWN)
    values = flagged.model_dump(mode="json", exclude_none=True, exclude=AWAITED_FIELDS)
    if values["occurred_at"] == UNTIMED:
        values["occurred_at"] = received_at.isoformat()
    try:
        values |= {
            "model": exchange.generation,
            "messages": [one.model_dump(mode="json", exclude_none=True) for one in asked_in(exchange.request)],
            "response": said.text if said.reasoning else preparation.split(said.text, opened=True).answer,
        }
        calls: dict[str, Any] = {"tool_calls": [dict(call) for call in said.tool_calls]} if said.tool_calls else {}
        return decode(json.dumps(values | calls).encode(), max_bytes=max_bytes)
    except (MessageRejected, ValidationError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise LostError(Lost.REFUSED) from exc


def _only(exchanges: Sequence[Exchange]) -> Exchange:
    """Clients can choose an id that others have, so several different exchanges are no record of any."""
    first, *others = exchanges
    if any(other != first for other in others):
        raise LostError(Lost.SEVERAL)
    return first


def _choice(flagged: FlaggedResponse, exchange: Exchange) -> Said:
    named = flagged.metadata.get("choice")
    if named is None and len(exchange.choices) == 1:
        return exchange.choices[0]
    if not isinstance(named, int) or not 0 <= named < len(exchange.choices):
        raise LostError(Lost.CHOICE)
    return exchange.choices[named]
