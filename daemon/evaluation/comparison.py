"""Compares two generations on the same items: pairs of answers, and counts over them. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

from connectors.messages.shapes import is_blank
from daemon.evaluation.votes import Group, ItemKey, Votes
from daemon.labels import Suite
from daemon.records import Adapter, Answer

FIX_SUITES = (Suite.FLAGGED, Suite.HOLDOUT)
PASS_SUITES = (*FIX_SUITES, Suite.GOLDEN)
PROBE_SUITES = (Suite.OVER_REFUSAL, Suite.ATTACKS, Suite.UNDER_ATTACK)
"""These items must not be trained on. Each suite has its own limit, so they are not counted as negative flips."""
MARGIN_NOISE = 0.01
"""Nats per token. Smaller differences count as no change: batched bfloat16 sums are not exactly repeatable."""
BITS_NOISE = 0.01

Key = tuple[str, str, bool]
"""Suite, item id, guided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScores:
    """All answers and figures of one generation."""

    generation: int
    name: str
    answers: Mapping[Key, Answer]

    def without(self, items: Collection[ItemKey]) -> ArmScores:
        return replace(self, answers={key: answer for key, answer in self.answers.items() if key[:2] not in items})


def arm_scores(adapter: Adapter, answers: Iterable[Answer]) -> ArmScores:
    """The greedy answers of one adapter, out of all answers of a run."""
    own = {
        (answer.suite, answer.item_id, answer.guided): answer
        for answer in answers
        if answer.arm == adapter.name and not answer.sample
    }
    return ArmScores(generation=adapter.generation, name=adapter.name, answers=own)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPair:
    """The answers of both arms to the same item, asked in the same way."""

    candidate: Answer
    live: Answer

    @property
    def item(self) -> ItemKey:
        return self.live.suite, self.live.item_id

    @property
    def form(self) -> tuple[ItemKey, bool]:
        """The item, and whether it was asked with the guidance."""
        return self.item, self.live.guided

    @property
    def checked(self) -> bool:
        return self.candidate.passed is not None and self.live.passed is not None

    @property
    def gained(self) -> bool:
        return self.live.passed is False and self.candidate.passed is True

    @property
    def lost(self) -> bool:
        return self.live.passed is True and self.candidate.passed is False

    @property
    def margin_gain(self) -> float | None:
        """Nats per token; None if an arm has no margin."""
        return _difference(self.candidate.margin, self.live.margin)

    @property
    def bits_rise(self) -> float | None:
        """Bits per token; None if an arm was not scored."""
        return _difference(self.candidate.bits_per_token, self.live.bits_per_token)

    @property
    def differs(self) -> bool:
        return (
            self.candidate.text != self.live.text
            or abs(self.margin_gain or 0.0) > MARGIN_NOISE
            or abs(self.bits_rise or 0.0) > BITS_NOISE
        )

    @property
    def silenced(self) -> bool:
        """Whether the candidate's answer is empty where live's is not, and nothing judged live's."""
        return self.live.passed is None and is_blank(self.candidate.text) and not is_blank(self.live.text)

    @property
    def finite(self) -> bool:
        return all(math.isfinite(figure) for figure in (*_figures(self.candidate), *_figures(self.live)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PassCounts:
    """Counts of the items decided by rules or by the judge, and the ids of the items with different results.

    `votes` are those of the items (`daemon.evaluation.votes`); `candidate` and `live` are the votes passed. Without
    reports among the items, each item is one vote.
    """

    items: tuple[ItemKey, ...]
    votes: float
    candidate: float
    live: float
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    votes_gained: int
    """Votes with more items gained than lost; each counts whole."""
    votes_lost: int
    changes: Mapping[ItemKey, float]
    """By how much each item that differs changes the votes passed; together, `candidate` minus `live`."""

    @property
    def gain(self) -> float:
        """Increase of the pass rate from live to candidate; 0 without items."""
        return sum(self.changes.values()) / self.votes if self.items else 0.0


def pass_counts(pairs: Iterable[AnswerPair], votes: Votes) -> PassCounts:
    """The counts of the pairs, which have one form of each item: with guidance, or without."""
    checked = {pair.item: pair for pair in pairs if pair.checked}
    weights = votes.weights(checked)
    net: dict[Group, int] = defaultdict(int)
    for item, pair in checked.items():
        net[votes.group(item)] += pair.gained - pair.lost
    return PassCounts(
        items=tuple(checked),
        votes=math.fsum(weights.values()),
        candidate=math.fsum(weights[item] for item, pair in checked.items() if pair.candidate.passed),
        live=math.fsum(weights[item] for item, pair in checked.items() if pair.live.passed),
        gained=tuple(pair.live.item_id for pair in checked.values() if pair.gained),
        lost=tuple(pair.live.item_id for pair in checked.values() if pair.lost),
        votes_gained=sum(change > 0 for change in net.values()),
        votes_lost=sum(change < 0 for change in net.values()),
        changes={
            item: weights[item] * (pair.gained - pair.lost)
            for item, pair in checked.items()
            if pair.gained or pair.lost
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginGains:
    """Rises of likelihood margins, by item, in nats per token."""

    gains: Mapping[ItemKey, float]
    weights: Mapping[ItemKey, float]
    by_vote: tuple[float, ...]
    """The mean gain of each vote."""

    @classmethod
    def of(cls, gains: Mapping[ItemKey, float], votes: Votes) -> Self:
        groups: dict[Group, list[float]] = defaultdict(list)
        for item, gain in gains.items():
            groups[votes.group(item)].append(gain)
        means = tuple(sum(found) / len(found) for found in groups.values())
        return cls(gains=gains, weights=votes.weights(gains), by_vote=means)

    @property
    def items(self) -> tuple[ItemKey, ...]:
        return tuple(self.gains)

    @property
    def votes(self) -> float:
        return sum(self.weights.values())

    @property
    def mean(self) -> float | None:
        """Over votes; None without gains."""
        # not math.fsum(): it raises on opposite infinities, but the gate must see and reject them
        return sum(self.weights[item] * gain for item, gain in self.gains.items()) / self.votes if self.gains else None

    @property
    def directions(self) -> dict[ItemKey, float]:
        """The vote of each item whose margin moved, negative if it fell."""
        moved = {item: gain for item, gain in self.gains.items() if abs(gain) > MARGIN_NOISE}
        return {item: math.copysign(self.weights[item], gain) for item, gain in moved.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """The items that are newly wrong, out of those that could be: an answer that became empty is wrong."""

    ids: tuple[str, ...]
    items: tuple[ItemKey, ...]
    lost: float
    """Votes."""
    votes: float

    @property
    def rate(self) -> float:
        """Negative flip rate: share of votes passed by live but not by the candidate (arXiv 2407.09435)."""
        return self.lost / self.votes if self.items else 0.0


@dataclass(frozen=True)
class Comparison:
    """Candidate and live, paired. An item without an answer from both arms is ignored."""

    candidate: ArmScores
    live: ArmScores
    votes: Votes = field(default_factory=Votes)

    @cached_property
    def pairs(self) -> tuple[AnswerPair, ...]:
        both = sorted(self.candidate.answers.keys() & self.live.answers.keys())
        return tuple(AnswerPair(candidate=self.candidate.answers[key], live=self.live.answers[key]) for key in both)

    def of(self, *suites: Suite, guided: bool) -> list[AnswerPair]:
        return [pair for pair in self.pairs if pair.live.suite in suites and pair.live.guided is guided]

    def counts(self, *suites: Suite, guided: bool = True) -> PassCounts:
        return pass_counts(self.of(*suites, guided=guided), self.votes)

    def flips(self, *suites: Suite) -> Flips:
        """With guidance."""
        could = {pair.item: pair for pair in self.of(*suites, guided=True) if pair.checked or pair.silenced}
        weights = self.votes.weights(could)
        wrong = [pair for pair in could.values() if pair.lost or pair.silenced]
        return Flips(
            ids=tuple(pair.live.item_id for pair in sorted(wrong, key=lambda pair: pair.silenced)),
            items=tuple(could),
            lost=math.fsum(weights[pair.item] for pair in wrong),
            votes=math.fsum(weights.values()),
        )

    def measured(self, suite: Suite) -> int:
        """Number of items that both arms answered; for drift, that both arms scored."""
        return len(self.bits_rises()) if suite is Suite.DRIFT else len(self.of(suite, guided=True))

    def margins(self, *suites: Suite) -> MarginGains:
        """The gains in margin of the reports, one per vote."""
        gains = {
            pair.item: pair.margin_gain
            for pair in self.pairs
            if pair.live.suite in suites and pair.margin_gain is not None
        }
        return MarginGains.of(gains, self.votes)

    def bits_rises(self) -> list[float]:
        return [pair.bits_rise for pair in self.pairs if pair.bits_rise is not None]

    def changed(self) -> tuple[int, int]:
        """Number of items with any difference, and number of all items."""
        items = {(pair.live.suite, pair.live.item_id) for pair in self.pairs}
        differing = {(pair.live.suite, pair.live.item_id) for pair in self.pairs if pair.differs}
        return len(differing), len(items)

    def not_finite(self) -> list[str]:
        """Ids of items with an infinite or NaN figure."""
        return sorted({pair.live.item_id for pair in self.pairs if not pair.finite})


def exact_p(gained: int, lost: int) -> float:
    """One-sided exact McNemar (sign) test.

    The probability of at least `gained` gains among the changed items if both arms were equally good.
    """
    changes = gained + lost
    return sum(math.comb(changes, count) for count in range(gained, changes + 1)) / (1 << changes)


def mean(values: Sequence[float]) -> float | None:
    # not math.fsum(): it raises on opposite infinities, but the gate must see and reject them
    return sum(values) / len(values) if values else None


def _difference(candidate: float | None, live: float | None) -> float | None:
    return None if candidate is None or live is None else candidate - live


def _figures(answer: Answer) -> list[float]:
    return [figure for figure in (answer.margin, answer.bits_per_token) if figure is not None]
