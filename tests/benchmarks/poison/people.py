"""Who sends reports: ten principals with honest users, and five kinds of senders, four of them hostile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from connectors.messages import FlaggedResponse

PRINCIPALS = tuple(f"backend-{number}" for number in range(10))
"""Each stands for the token of one chat backend. The hostile ones are the last."""
REPORTERS = 20
"""Honest users of all principals together."""


class Attacker(StrEnum):
    """Who attacks.

    REPORTER: one user of an honest backend. PRINCIPAL: one of the ten backends. THIRD: three of them, so 30 %.
    SYBIL: many invented users of one honest backend, one report each. HALF: five backends, more than is defended
    against; it shows that the benchmark sees an attack that gets through.
    """

    REPORTER = "reporter"
    PRINCIPAL = "principal"
    THIRD = "third"
    SYBIL = "sybil"
    HALF = "half"


HOSTILE_PRINCIPALS = {Attacker.PRINCIPAL: 1, Attacker.THIRD: 3, Attacker.HALF: 5}
MEASURED = (Attacker.REPORTER, Attacker.PRINCIPAL, Attacker.THIRD, Attacker.SYBIL)
IDS_OF_A_PRINCIPAL = 20
"""A hostile backend invents its users; with this number, no limit per reporter stops it."""


@dataclass(frozen=True, slots=True)
class Sender:
    principal: str
    reporter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filed:
    """A report and its sender. `goal`: of the attack that it belongs to; None: it is honest."""

    sender: Sender
    flagged: FlaggedResponse
    goal: str | None = None


def honest_sender(number: int, attacker: Attacker | None) -> Sender:
    """Principals and reporters take turns."""
    honest = PRINCIPALS[: len(PRINCIPALS) - HOSTILE_PRINCIPALS.get(attacker, 0)] if attacker else PRINCIPALS
    return Sender(honest[number % len(honest)], f"user-{number % REPORTERS}")


def hostile_sender(number: int, attacker: Attacker) -> Sender:
    """The sender of an attack's report with this number."""
    if attacker is Attacker.REPORTER:
        return Sender(PRINCIPALS[0], "mallory")
    if attacker is Attacker.SYBIL:
        return Sender(PRINCIPALS[0], f"guest-{number}")
    hostile = PRINCIPALS[-HOSTILE_PRINCIPALS[attacker] :]
    return Sender(
        hostile[number % len(hostile)],
        f"{hostile[number % len(hostile)]}-customer-{number // len(hostile) % IDS_OF_A_PRINCIPAL}",
    )


def hostile_senders(number: int, attacker: Attacker) -> list[Sender]:
    """All senders of one hostile report: hostile backends confirm each other."""
    together = HOSTILE_PRINCIPALS.get(attacker, 1)
    return [hostile_sender(number * together + one, attacker) for one in range(together)]


def of_goal(filed: Sequence[Filed], goal: str | None) -> list[Filed]:
    return [one for one in filed if one.goal == goal]
