"""How often the gate's default bounds reject or accept by chance: `python -m tests.benchmarks.gate_power`.

Computed, not measured. Each item is gained or lost by itself with a true rate, and the shares are exact sums over both
counts. docs/measurements/gate-power.md has the tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from daemon.config.evaluation import GatePolicy
from daemon.evaluation.comparison import exact_p

POLICY = GatePolicy()
NEGLIGIBLE = 1e-12
ROUNDING = 1e-9
FLIP_ITEMS = 64
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


@cache
def is_significantly_worse(items: int, gained: int, lost: int) -> bool:
    """As `is_worse`, were significance asked for besides."""
    return is_worse(items, gained, lost) and exact_p(lost, gained) <= POLICY.max_p_value + ROUNDING


def breaks_too_much(items: int, _gained: int, lost: int) -> bool:
    """Whether the criterion `negative_flips` fails."""
    return lost / items > POLICY.max_negative_flip_rate + ROUNDING


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
        lines.append(f"| gained {gained:.0%}, lost {lost:.0%} ({words}) | {' | '.join(shares)} |")
    return "\n".join(lines)


FIXES = ((0.10, 0.10, "no better"), (0.15, 0.05, "better"), (0.30, 0.05, "much better"))
PROBES = ((0.02, 0.02, "as before"), (0.05, 0.05, "as before"), (0.0, 0.10, "worse"), (0.05, 0.20, "much worse"))
FLIPS = ((0.0, 0.02, "few"), (0.0, 0.05, "at the bound"), (0.0, 0.10, "many"))


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
        "The same, were a significant loss asked for besides": table(is_significantly_worse, (24, 60, 200), PROBES),
    }


def main() -> None:
    print("\n\n".join(f"**{title}**\n\n{rows}" for title, rows in tables().items()))


if __name__ == "__main__":
    main()
