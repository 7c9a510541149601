"""Votes: one per principal, shared by its reporters."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction

from connectors.messages import Severity
from daemon.parts import Part
from daemon.records import utcnow
from daemon.text.votes import strongest_first, votes

NOW = utcnow()


def part(principal: str, reporter: str, *, minutes: int = 0) -> Part:
    return Part(
        report_id=f"{principal}-{reporter}",
        principal=principal,
        reporter=reporter,
        received_at=NOW + timedelta(minutes=minutes),
        reason="",
        correction=None,
        checks=None,
        severity=Severity.MEDIUM,
    )


def test_a_principal_has_one_vote_however_many_names_it_uses() -> None:
    loud = [part("loud", f"n{number}") for number in range(50)]
    assert votes([loud, [part("shop", "ann")]]) == [1, 1]


def test_reporters_of_a_principal_share_its_vote() -> None:
    first = [part("shop", "ann"), part("shop", "bob"), part("shop", "bob")]
    assert votes([first, [part("shop", "eve"), part("bank", "tom")]]) == [Fraction(2, 3), Fraction(4, 3)]


def test_with_equal_votes_the_newest_comes_first() -> None:
    claims = {"old": [part("a", "x")], "new": [part("b", "x", minutes=1)], "two": [part("c", "x"), part("d", "x")]}
    assert strongest_first(claims) == ["two", "new", "old"]


def test_nothing_claimed_has_no_votes() -> None:
    assert strongest_first({}) == []
    assert votes([[]]) == [0]
