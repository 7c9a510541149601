"""Corroboration: independent senders report the same mistake, or give corrections that agree.

Principals count, because they are authenticated. The reporters of a principal count only if the operator vouches for
it: anybody else can make up as many names as he likes. Reports about the same question with another correction
corroborate nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from daemon.config.trust import CorroborationConfig
from daemon.parts import Part
from daemon.records import INDUCED, Lesson, Report
from daemon.trust.agreement import agree

MAX_VOICES = 100
"""Statements about a cluster that are compared with each of its reports ..."""
MAX_VOICES_PER_PRINCIPAL = 10
"""... and of each principal, the newest of each reporter first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corroboration:
    """What independent senders support."""

    mistake: bool = False
    """The answer was flagged by enough of them, or alike answers with the same checks or corrections that agree."""
    correction: bool = False
    """Enough of them gave this correction, or one that says the same."""


UNSUPPORTED = Corroboration()


@dataclass(frozen=True, slots=True, kw_only=True)
class Senders:
    """How supporters are counted. `active`: principals that sent reports in the last `active_days`."""

    config: CorroborationConfig
    active: int
    trusts: Callable[[str], bool]

    def suffice(self, parts: Iterable[Part]) -> bool:
        """Whether the senders of these parts are enough."""
        reporters: dict[str, set[str]] = defaultdict(set)
        for part in parts:
            if part.principal != INDUCED:  # erratad itself is no witness
                reporters[part.principal].add(part.reporter)
        enough = len(reporters) >= self.config.principals and len(reporters) > self.config.share * self.active
        return enough or any(
            len(names) >= self.config.reporters for principal, names in reporters.items() if self.trusts(principal)
        )


def corroborated(report: Report, lesson: Lesson | None, voices: Sequence[Part], senders: Senders) -> Corroboration:
    """What supports a report and the correction of its lesson.

    `voices`: of the reports of its cluster, which are of one category (`voices_of`).
    """
    correction = None if lesson is None else lesson.correction
    own_checks = [part.rules for part in report.parts if part.rules is not None]
    same_text: list[Part] = []
    same_mistake: list[Part] = list(report.parts)
    for part in chain(report.parts, voices):
        agrees = (
            correction is not None
            and part.correction is not None
            and agree(correction, part.correction, report.prompt_text, similarity=senders.config.agreement)
        )
        if agrees:
            same_text.append(part)
        if agrees or part.rules in own_checks:
            same_mistake.append(part)
    return Corroboration(mistake=senders.suffice(same_mistake), correction=senders.suffice(same_text))


def voices_of(reports: Iterable[Report]) -> list[Part]:
    """The parts of the reports of one cluster that may support others: bounded, principals in turn, newest first."""
    newest: dict[tuple[str, str], Part] = {}
    for part in sorted((part for report in reports for part in report.parts), key=_age, reverse=True):
        if part.correction is not None or part.rules is not None:
            newest.setdefault((part.principal, part.reporter), part)
    by_principal: dict[str, list[Part]] = defaultdict(list)
    for part in newest.values():
        if len(by_principal[part.principal]) < MAX_VOICES_PER_PRINCIPAL:
            by_principal[part.principal].append(part)
    in_turn = chain.from_iterable(zip_longest(*by_principal.values()))
    return [part for part in in_turn if part is not None][:MAX_VOICES]


def _age(part: Part) -> tuple[object, str]:
    return part.received_at, part.report_id
