"""Which messages intake refuses, and what it says of them."""

from __future__ import annotations

import math
import time

from connectors.messages import FlaggedResponse, MessageRejected, Rejection, decode
from daemon.config.intake import IntakeConfig
from daemon.config.sources import Limits

HOUR_S = 3600
NO_RECORD = (
    "the message names a completion only, but the model servers do not remember their answers here "
    "(serving.exchanges is off); send messages and response as well"
)


class QuotaExceeded(MessageRejected):
    """The principal of the message has no quota left. `retry_after_s`: there may be room at the next full hour."""

    def __init__(self, principal: str, limits: Limits) -> None:
        super().__init__(Rejection.QUOTA, over_quota(principal, limits))
        self.retry_after_s = math.ceil(HOUR_S - time.time() % HOUR_S)


def decoded(raw: bytes | None, config: IntakeConfig, *, exchanges: bool) -> FlaggedResponse:
    """The message. `exchanges`: whether the servers remember their answers.

    Raises:
        MessageRejected: It cannot be read, or it needs a record that no server keeps.
    """
    flagged = decode(raw, max_bytes=config.max_message_bytes)
    if flagged.is_awaited and not exchanges:
        raise MessageRejected(Rejection.NO_RECORD, NO_RECORD)
    return flagged


def conflict(flagged: FlaggedResponse) -> str:
    return f"id {flagged.id} is stored with other content; send the report under a new id"


def over_quota(principal: str, limits: Limits) -> str:
    return (
        f"{principal} has no room left in 24 hours: {limits.reports} reports and {limits.size_bytes} bytes are allowed "
        "(intake.max_reports_per_day, max_bytes_per_day); send the report again later"
    )
