"""Lessons whose prompts resemble each other across the two sides of a run: one of the two sides must yield.

Clusters do not exclude this: they limit only the distance to a leader. A similar training prompt would leak the answer
to the held-out one. The held-out lesson gives way: otherwise a few reports about each topic, some of them held out,
would keep a topic out of training for good. But a crowd of names in one principal must not drive what more principals
ask out of the holdout: then the training lessons give way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from daemon.dataset.fairness import Candidate, IsTrusted
from daemon.text.similarity import TOLERANCE, Vectorizer, cosines

Weight: TypeAlias = tuple[int, int]
"""Trusted principals, and principals. Reporters do not count: their names are free."""


def conflicts(
    train: Sequence[Candidate],
    holdout: Sequence[Candidate],
    *,
    vectorizer: Vectorizer,
    similarity: float,
    is_trusted: IsTrusted,
) -> tuple[set[str], set[str]]:
    """The ids of the training lessons to leave out, and those of the held-out ones.

    A held-out lesson stays if it has, together with the other held-out lessons that resemble the same training ones,
    more weight than these.
    """
    if not train or not holdout:
        return set(), set()
    prompts = [[one.report.prompt_text for one in side] for side in (train, holdout)]
    alike = cosines(vectorizer.vectors(prompts[0]), vectorizer.vectors(prompts[1])) >= similarity - TOLERANCE
    yields = np.zeros(len(holdout), dtype=bool)
    for column in np.flatnonzero(alike.any(axis=0)):
        kept_out = alike[:, column]
        beside = np.asarray(alike[kept_out].any(axis=0))
        yields[column] = _weight(train, kept_out, is_trusted) >= _weight(holdout, beside, is_trusted)
    leaks = alike[:, ~yields].any(axis=1)
    return {train[row].report.id for row in np.flatnonzero(leaks)}, {
        holdout[column].report.id for column in np.flatnonzero(yields)
    }


def _weight(side: Sequence[Candidate], chosen: NDArray[Any], is_trusted: IsTrusted) -> Weight:
    principals = {name for one, taken in zip(side, chosen, strict=True) if taken for name in one.principals}
    return sum(map(is_trusted, principals)), len(principals)
