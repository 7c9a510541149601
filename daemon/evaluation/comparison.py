"""Compares two generations on the same items: pairs of answers, and counts over them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from connectors.messages.shapes import is_blank
from daemon.labels import Suite
from daemon.records import Adapter, Answer

FIX_SUITES = (Suite.FLAGGED, Suite.HOLDOUT)
PASS_SUITES = (*FIX_SUITES, Suite.GOLDEN)
PROBE_SUITES = (Suite.OVER_REFUSAL, Suite.ATTACKS)
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


def arm_scores(adapter: Adapter, answers: Iterable[Answer]) -> ArmScores:
    """The answers of one adapter, out of all answers of a run."""
    own = {(answer.suite, answer.item_id, answer.guided): answer for answer in answers if answer.arm == adapter.name}
    return ArmScores(generation=adapter.generation, name=adapter.name, answers=own)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPair:
    """The answers of both arms to the same item, asked in the same way."""

    candidate: Answer
    live: Answer

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
    """Counts of the items decided by rules or by the judge, and the ids of the items with different results."""

    items: int
    candidate: int
    live: int
    gained: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def gain(self) -> float:
        """Increase of the pass rate from live to candidate; 0 without items."""
        return (self.candidate - self.live) / self.items if self.items else 0.0

    @property
    def flip_rate(self) -> float:
        """Negative flip rate: share of items passed by live but not by the candidate (arXiv 2407.09435)."""
        return len(self.lost) / self.items if self.items else 0.0


def pass_counts(pairs: Iterable[AnswerPair]) -> PassCounts:
    checked = [pair for pair in pairs if pair.checked]
    return PassCounts(
        items=len(checked),
        candidate=sum(pair.candidate.passed is True for pair in checked),
        live=sum(pair.live.passed is True for pair in checked),
        gained=tuple(pair.live.item_id for pair in checked if pair.gained),
        lost=tuple(pair.live.item_id for pair in checked if pair.lost),
    )


@dataclass(frozen=True)
class Comparison:
    """Candidate and live, paired. An item without an answer from both arms is ignored."""

    candidate: ArmScores
    live: ArmScores

    @cached_property
    def pairs(self) -> tuple[AnswerPair, ...]:
        both = sorted(self.candidate.answers.keys() & self.live.answers.keys())
        return tuple(AnswerPair(candidate=self.candidate.answers[key], live=self.live.answers[key]) for key in both)

    def of(self, *suites: Suite, guided: bool) -> list[AnswerPair]:
        return [pair for pair in self.pairs if pair.live.suite in suites and pair.live.guided is guided]

    def counts(self, *suites: Suite, guided: bool = True) -> PassCounts:
        return pass_counts(self.of(*suites, guided=guided))

    def silenced(self, *suites: Suite) -> tuple[str, ...]:
        """Ids of the items without a judged answer of live to which the candidate answers nothing, with guidance."""
        return tuple(pair.live.item_id for pair in self.of(*suites, guided=True) if pair.silenced)

    def answered(self, *suites: Suite) -> dict[str, list[Answer]]:
        """The guided answers of each arm, by the arm's role."""
        pairs = self.of(*suites, guided=True)
        return {"candidate": [pair.candidate for pair in pairs], "live": [pair.live for pair in pairs]}

    def measured(self, suite: Suite) -> int:
        """Number of items that both arms answered; for drift, that both arms scored."""
        return len(self.bits_rises()) if suite is Suite.DRIFT else len(self.of(suite, guided=True))

    def margin_gains(self, *suites: Suite) -> list[float]:
        return [pair.margin_gain for pair in self.pairs if pair.live.suite in suites and pair.margin_gain is not None]

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
