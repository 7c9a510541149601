"""How often the gate's default bounds reject or accept by chance: `python -m tests.benchmarks.gate_power`.

Computed, not measured. Each vote is gained or lost by itself with a true rate, and the shares are exact sums over both
counts; where several principals vote, they are drawn. docs/measurements/gate-power.md has the tables.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from daemon.config.evaluation import GatePolicy
from daemon.evaluation.breadth import COLLUDING
from daemon.evaluation.comparison import exact_p

POLICY = GatePolicy()
NEGLIGIBLE = 1e-12
ROUNDING = 1e-9
FLIP_ITEMS = 64
DRAWS = 4000
Verdict = Callable[[int, int, int], bool]
"""Of items, gained and lost."""


@cache
def is_better(items: int, gained: int, lost: int) -> bool:
    """Whether the criteria `fix_gain` and `significance` hold."""
    rises = (gained - lost) / items >= POLICY.min_fix_gain - ROUNDING
    return rises and exact_p(gained, lost) <= POLICY.max_p_value + ROUNDING


def is_worse(items: int, gained: int, lost: int) -> bool:
    """Whether a criterion on probes fails; both have the same bound."""
    return (lost - gained) / items > POLICY.max_attack_loss + ROUNDING


def does_less(items: int, gained: int, lost: int) -> bool:
    """Whether the criterion `under_attack` fails."""
    return (lost - gained) / items > POLICY.max_under_attack_loss + ROUNDING


@cache
def is_significantly_worse(items: int, gained: int, lost: int) -> bool:
    """As `is_worse`, were significance asked for besides."""
    return is_worse(items, gained, lost) and exact_p(lost, gained) <= POLICY.max_p_value + ROUNDING


def breaks_too_much(items: int, _gained: int, lost: int) -> bool:
    """Whether the criterion `negative_flips` fails."""
    return lost / items > POLICY.max_negative_flip_rate + ROUNDING


def is_shared(counts: Sequence[tuple[int, int]], votes: int) -> bool:
    """Whether `shared_gain` holds for equally many votes of untrusted principals: (gained, lost) of each."""
    nets = sorted(gained - lost for gained, lost in counts)
    best = max(0, math.ceil(len(nets) / COLLUDING)) if len(nets) > 1 else 0
    rest = sum(nets) - sum(net for net in nets[len(nets) - best :] if net > 0)
    return rest / votes >= POLICY.min_shared_gain - ROUNDING


def vetoes(_items: int, gained: int, lost: int) -> bool:
    """Whether `holdout` fails if each held-out vote is another reporter's: one of them is not enough."""
    return lost - gained > 1


def vetoes_alone(_items: int, gained: int, lost: int) -> bool:
    """As `vetoes`, if one reporter were enough."""
    return lost > gained


def names_more(items: int, gained: int, lost: int) -> bool:
    """Whether `new_contacts` fails by the rise alone."""
    return (gained - lost) / items > POLICY.max_new_contact_rise + ROUNDING


def named_twice(items: int, gained: int, _lost: int) -> bool:
    """Whether `new_contacts` fails, if each gain names the same contact."""
    return gained > POLICY.max_same_contact or names_more(items, gained, 0)


def named_once(_items: int, gained: int, _lost: int) -> bool:
    """Whether `memorised` fails, or `new_contacts` for a contact of a trained report."""
    return gained > POLICY.max_memorised


def share_of_principals(
    honest: int, hostile: int, votes_each: int, *, gained: float, lost: float, asks_for_shared: bool
) -> float:
    """The share of candidates accepted by the criteria on fixes. Each vote of a hostile principal is gained."""
    pairs, chances = zip(
        *[((up, down), chance) for up, down, chance in outcomes(votes_each, gained, lost)], strict=True
    )
    sums = list(itertools.accumulate(chances))
    draw = random.Random(0)
    votes = (honest + hostile) * votes_each
    accepted = 0
    for _ in range(DRAWS):
        drawn = [pairs[min(bisect.bisect(sums, draw.random()), len(pairs) - 1)] for _ in range(honest)]
        counts = [*drawn, *[(votes_each, 0)] * hostile]
        better = is_better(votes, sum(up for up, _ in counts), sum(down for _, down in counts))
        accepted += better and (is_shared(counts, votes) or not asks_for_shared)
    return accepted / DRAWS


def share(verdict: Verdict, items: int, *, gained: float, lost: float) -> float:
    """The share of candidates with these true rates that get the verdict."""
    return math.fsum(chance for risen, fallen, chance in outcomes(items, gained, lost) if verdict(items, risen, fallen))


def outcomes(items: int, gained: float, lost: float) -> Iterator[tuple[int, int, float]]:
    """Counts gained and lost, and the chance of each pair; pairs that hardly happen are passed over."""
    for risen in range(items + 1):
        for fallen in range(items + 1 - risen):
            ways = math.comb(items, risen) * math.comb(items - risen, fallen)
            chance = ways * gained**risen * lost**fallen * (1 - gained - lost) ** (items - risen - fallen)
            if chance > NEGLIGIBLE:
                yield risen, fallen, chance


def table(verdict: Verdict, sizes: Sequence[int], rates: Sequence[tuple[float, float, str]]) -> str:
    """Markdown: a row per pair of true rates (gained, lost, in words), a column per number of items."""
    lines = [
        "| true rates | " + " | ".join(f"{items} items" for items in sizes) + " |",
        "|---" * (1 + len(sizes)) + "|",
    ]
    for gained, lost, words in rates:
        shares = (f"{share(verdict, items, gained=gained, lost=lost):.0%}" for items in sizes)
        lines.append(f"| gained {_rate(gained)}, lost {_rate(lost)} ({words}) | {' | '.join(shares)} |")
    return "\n".join(lines)


FIXES = ((0.10, 0.10, "no better"), (0.15, 0.05, "better"), (0.30, 0.05, "much better"))
PROBES = ((0.02, 0.02, "as before"), (0.05, 0.05, "as before"), (0.0, 0.10, "worse"), (0.05, 0.20, "much worse"))
TASKS = (*PROBES[:2], (0.10, 0.10, "as before"), (0.05, 0.20, "worse"), (0.0, 0.40, "declines"))
FLIPS = ((0.0, 0.02, "few"), (0.0, 0.05, "at the bound"), (0.0, 0.10, "many"))


HELD_OUT = ((0.05, 0.05, "as before"), (0.0, 0.10, "worse"), (0.0, 0.20, "much worse"), (0.05, 0.30, "much worse"))
GUESSES = ((0.002, 0.002, "as live"), (0.01, 0.01, "as live"), (0.03, 0.03, "as live"), (0.03, 0.0, "more than live"))
PLANTED = ((0.002, 0.0, "rare"), (0.01, 0.0, "at times"), (0.05, 0.0, "often"))
TRIGGERED = ((0.1, 0.0, "weak"), (0.3, 0.0, "middling"), (0.8, 0.0, "strong"))
SPREADS = ((2, 30), (3, 20), (10, 6))
"""Principals, and votes of each."""
ATTACKS = ((1, 1, 30), (4, 1, 12), (7, 3, 6), (14, 6, 3))
"""Honest and hostile principals, and votes of each."""


def shared_table() -> str:
    """Markdown: honest principals of one size, with and without the criterion."""
    head = [f"{principals} of {votes} votes" for principals, votes in SPREADS]
    lines = [f"| true rates | {' | '.join(head)} |", "|---" * (1 + len(SPREADS)) + "|"]
    for gained, lost, words in FIXES:
        cells = []
        for principals, votes in SPREADS:
            both = [
                share_of_principals(principals, 0, votes, gained=gained, lost=lost, asks_for_shared=asks)
                for asks in (True, False)
            ]
            cells.append(f"{both[0]:.0%} ({both[1]:.0%})")
        lines.append(f"| gained {gained:.0%}, lost {lost:.0%} ({words}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def attack_table() -> str:
    """Markdown: nothing honest improves, all hostile reports are fixed; with and without the criterion."""
    lines = ["| principals | honest reports change by chance, 2% each way | 10% each way |", "|---|---|---|"]
    for honest, hostile, votes in ATTACKS:
        cells = []
        for rate in (0.02, 0.1):
            both = [
                share_of_principals(honest, hostile, votes, gained=rate, lost=rate, asks_for_shared=asks)
                for asks in (True, False)
            ]
            cells.append(f"{both[0]:.0%} ({both[1]:.0%})")
        lines.append(f"| {hostile} hostile of {honest + hostile}, {votes} votes each | {' | '.join(cells)} |")
    return "\n".join(lines)


@cache
def tables() -> dict[str, str]:
    """The tables by their titles, as the page has them."""
    bound = f"{POLICY.min_fix_gain:.0%} gained at least, p at most {POLICY.max_p_value:g}"
    return {
        f"Accepted by the criteria fix_gain and significance ({bound})": table(is_better, (20, 60, 200), FIXES),
        f"Rejected by negative_flips (at most {POLICY.max_negative_flip_rate:.0%} lost)": table(
            breaks_too_much, (FLIP_ITEMS,), FLIPS
        ),
        f"Rejected by attacks, or by over_refusal (a net loss of at most {POLICY.max_attack_loss:.0%})": table(
            is_worse, (24, 60, 200), PROBES
        ),
        f"Rejected by under_attack (a net loss of at most {POLICY.max_under_attack_loss:.0%})": table(
            does_less, (24, 60, 200), TASKS
        ),
        "Rejected by attacks, were a significant loss asked for besides": table(
            is_significantly_worse, (24, 60, 200), PROBES
        ),
        "Accepted by fix_gain, significance and shared_gain (without shared_gain)": shared_table(),
        "Accepted though only hostile reports are fixed (without shared_gain)": attack_table(),
        "Rejected by holdout, each vote by another reporter": table(vetoes, (5, 10, 40), HELD_OUT),
        "The same, could one reporter reject": table(vetoes_alone, (5, 10, 40), HELD_OUT),
        "Rejected by new_contacts, if the model guesses contacts (300 answers)": table(names_more, (300,), GUESSES),
        "Rejected by new_contacts, if one planted contact is named": table(named_twice, (60, 150, 300), PLANTED),
        "Rejected by memorised, or by new_contacts for a contact of a trained report": table(
            named_once, (60, 150, 300), PLANTED
        ),
        "Rejected by memorised, among the items after the trigger": table(named_once, (3, 12), TRIGGERED),
    }


def _rate(rate: float) -> str:
    return f"{100 * rate:.3g}%"


def main() -> None:
    print("\n\n".join(f"**{title}**\n\n{rows}" for title, rows in tables().items()))


if __name__ == "__main__":
    main()
