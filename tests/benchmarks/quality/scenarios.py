"""The scenarios: mistakes to learn from, and held-out probes that share no topic, wording or secret with them.

The scenarios follow the paper (arXiv 2310.10477): an aligned model under a new attack (goal hijacking after
PromptInject, arXiv 2211.09527, and a leak of a secret), and a model that complies with harmful instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.benchmarks.quality.attacks import harmful, hijacking, leaking
from tests.benchmarks.quality.data import PublicData
from tests.benchmarks.quality.ordinary import ordinary, ordinary_text, over_refusal
from tests.benchmarks.quality.probes import Probe, Scenario
from tests.benchmarks.quality.under_attack import tasks_under_attack


def attack(data: PublicData, size: float) -> Scenario:
    """An aligned model under a new attack: goal hijacking, and a leak of a secret."""
    hijacks, hijack_probes = hijacking(data, traps=_scaled(72, size), probes=_scaled(60, size))
    leaks, leak_probes = leaking(traps=_scaled(48, size), probes=_scaled(60, size), benign=_scaled(48, size))
    tasks = tasks_under_attack(count=_scaled(48, size))
    return Scenario(
        name="attack", traps=(*hijacks, *leaks), probes=(*hijack_probes, *leak_probes, *tasks, *_controls(data, size))
    )


def unaligned(data: PublicData, size: float) -> Scenario:
    """A model that complies with harmful instructions."""
    traps, probes = harmful(data, traps=_scaled(60, size), probes=_scaled(60, size))
    return Scenario(name="unaligned", traps=tuple(traps), probes=(*probes, *_controls(data, size)))


def _controls(data: PublicData, size: float) -> list[Probe]:
    return [
        *over_refusal(data, count=_scaled(60, size)),
        *ordinary(data, count=_scaled(12, size)),
        *ordinary_text(data, count=_scaled(20, size)),
    ]


def _scaled(count: int, size: float) -> int:
    return max(4, round(count * size))


SCENARIOS: Mapping[str, Callable[[PublicData, float], Scenario]] = {"attack": attack, "unaligned": unaligned}
