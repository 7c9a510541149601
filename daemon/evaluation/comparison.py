"""Two generations measured on the same items: pairs of answers, and what is counted on them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from daemon.labels import Suite
from daemon.records import Adapter, Answer

FIX_SUITES = (Suite.FLAGGED, Suite.HOLDOUT)
PASS_SUITES = (*FIX_SUITES, Suite.GOLDEN)
PROBE_SUITES = (Suite.OVER_REFUSAL, Suite.ATTACKS)
"""Nothing of them may be trained on; each has a bound of its own, so they do not count among the negative flips."""
MARGIN_NOISE = 0.01
"""Nats per token. Batched bfloat16 sums are not repeatable to the last bit; less than this is no change."""
BITS_NOISE = 0.01

Key = tuple[str, str, bool]
"""Suite, item id, guided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScores:
    """Everything measured of one generation."""

    generation: int
    name: str
    answers: Mapping[Key, Answer]


def arm_scores(adapter: Adapter, answers: Iterable[Answer]) -> ArmScores:
    """The adapter's share of a run's answers."""
    own = {(answer.suite, answer.item_id, answer.guided): answer for answer in answers if answer.arm == adapter.name}
    return ArmScores(generation=adapter.generation, name=adapter.name, answers=own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both arms' answers to one item, asked alike."""

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
        """Nats per token; None where an arm has no margin."""
        return _difference(self.candidate.margin, self.live.margin)

    @property
    def bits_rise(self) -> float | None:
        """Bits per token; None where an arm was not scored."""
        return _difference(self.candidate.bits_per_token, self.live.bits_per_token)

    @property
    def differs(self) -> bool:
        return (
            self.candidate.text != self.live.text
            or abs(self.margin_gain or 0.0) > MARGIN_NOISE
            or abs(self.bits_rise or 0.0) > BITS_NOISE
        )

    @property
    def finite(self) -> bool:
        return all(math.isfinite(figure) for figure in (*_figures(self.candidate), *_figures(self.live)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many of the items that rules (or the judge) decided on are passed; ids of the items that changed sides."""

    items: int
    candidate: int
    live: int
    gained: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def gain(self) -> float:
        """Rise of the share passed; negative where it fell, 0 without items."""
        return (self.candidate - self.live) / self.items if self.items else 0.0

    @property
    def flip_rate(self) -> float:
        """Share of the items that live passes and the candidate fails (arXiv 2407.09435)."""
        return len(self.lost) / self.items if self.items else 0.0


def tally(pairs: Iterable[Pair]) -> Tally:
    checked = [pair for pair in pairs if pair.checked]
    return Tally(
        items=len(checked),
        candidate=sum(pair.candidate.passed is True for pair in checked),
        live=sum(pair.live.passed is True for pair in checked),
        gained=tuple(pair.live.item_id for pair in checked if pair.gained),
        lost=tuple(pair.live.item_id for pair in checked if pair.lost),
    )


@dataclass(frozen=True)
class Comparison:
    """Candidate and live, paired: an item that one of them was not asked counts for neither."""

    candidate: ArmScores
    live: ArmScores

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        both = sorted(self.candidate.answers.keys() & self.live.answers.keys())
        return tuple(Pair(candidate=self.candidate.answers[key], live=self.live.answers[key]) for key in both)

    def of(self, *suites: Suite, guided: bool) -> list[Pair]:
        return [pair for pair in self.pairs if pair.live.suite in suites and pair.live.guided is guided]

    def tally(self, *suites: Suite, guided: bool = True) -> Tally:
        return tally(self.of(*suites, guided=guided))

    def margin_gains(self, *suites: Suite) -> list[float]:
        return [pair.margin_gain for pair in self.pairs if pair.live.suite in suites and pair.margin_gain is not None]

    def bits_rises(self) -> list[float]:
        return [pair.bits_rise for pair in self.pairs if pair.bits_rise is not None]

    def changed(self) -> tuple[int, int]:
        """How many items differ in any way, of how many."""
        items = {(pair.live.suite, pair.live.item_id) for pair in self.pairs}
        differing = {(pair.live.suite, pair.live.item_id) for pair in self.pairs if pair.differs}
        return len(differing), len(items)

    def not_finite(self) -> list[str]:
        """Items with a figure that is infinite or not a number."""
        return sorted({pair.live.item_id for pair in self.pairs if not pair.finite})


def exact_p(gained: int, lost: int) -> float:
    """One-sided exact McNemar (sign) test: how likely are so many gains among the changes, were both arms as good?"""
    changes = gained + lost
    return sum(math.comb(changes, count) for count in range(gained, changes + 1)) / (1 << changes)


def mean(values: Sequence[float]) -> float | None:
    # not math.fsum(): it raises on opposite infinities, and the gate has to see them as figures
    return sum(values) / len(values) if values else None


def _difference(candidate: float | None, live: float | None) -> float | None:
    return None if candidate is None or live is None else candidate - live


def _figures(answer: Answer) -> list[float]:
    return [figure for figure in (answer.margin, answer.bits_per_token) if figure is not None]
