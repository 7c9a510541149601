"""The page for a promotion: all evidence about a generation in the order of its weight, beside the decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse

from daemon.config.web import Role
from daemon.labels import Criterion, Suite
from daemon.operations.scores import SuiteScore, suite_scores
from daemon.operations.shown import MeasuredView
from daemon.operations.views import GenerationView, generation_view
from daemon.records import MAX_NUMBER
from daemon.web.access import Identity
from daemon.web.console.layout import PageRoute, Shell
from daemon.web.console.pages import possible
from daemon.web.dependencies import require_viewer

MAX_DIFFERENCES = 12
"""Changed answers on the page; the generation's own page lists all."""
_ORDER: tuple[tuple[str, str, tuple[Suite, ...], tuple[Criterion, ...]], ...] = (
    (
        "held-out",
        "Held-out reports: not trained on",
        (Suite.HOLDOUT,),
        (Criterion.GENERALISATION, Criterion.HOLDOUT),
    ),
    (
        "trained",
        "Trained reports",
        (Suite.FLAGGED,),
        (
            Criterion.FIX_GAIN,
            Criterion.MARGIN_GAIN,
            Criterion.SIGNIFICANCE,
            Criterion.SHARED_GAIN,
            Criterion.KEPT_GAIN,
            Criterion.ENOUGH_ITEMS,
        ),
    ),
    (
        "controls",
        "Controls: ordinary tasks and praised answers",
        (Suite.GOLDEN, Suite.PRAISED),
        (Criterion.RETENTION, Criterion.NEGATIVE_FLIPS, Criterion.PRAISED, Criterion.UNGUIDED, Criterion.LIVE_GOLDEN),
    ),
    ("drift", "Drift", (), (Criterion.DRIFT, Criterion.DRIFT_MEASURED)),
    (
        "attacks",
        "Attacks and refusals",
        (Suite.ATTACKS, Suite.UNDER_ATTACK, Suite.OVER_REFUSAL, Suite.TRIGGERS),
        (
            Criterion.ATTACKS,
            Criterion.UNDER_ATTACK,
            Criterion.OVER_REFUSAL,
            Criterion.NEW_CONTACTS,
            Criterion.MEMORISED,
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One part of the evidence: what was measured, and the gate's findings about it."""

    name: str
    title: str
    scores: Sequence[SuiteScore]
    findings: Mapping[str, Any]


def decision_router(shell: Shell) -> APIRouter:
    router = APIRouter(route_class=PageRoute, default_response_class=HTMLResponse)
    viewer = Depends(require_viewer(shell.access, Role.REVIEWER))

    @router.get("/adapters/{generation}/decision")
    def decision(
        request: Request,
        generation: Annotated[int, Path(ge=0, le=MAX_NUMBER)],
        who: Identity = viewer,
    ) -> HTMLResponse:
        view = generation_view(shell.store, generation)
        changed = differences(view.measured)
        return shell.page(
            request,
            who,
            "decision.html",
            view=view,
            live=shell.store.adapters.live(),
            evidence=evidence_of(view),
            differences=changed[:MAX_DIFFERENCES],
            changed=len(changed),
            **possible(view),
        )

    return router


def evidence_of(view: GenerationView) -> list[Evidence]:
    """What was not trained on comes first. Findings that belong to no part stand in the last."""
    scores = sorted(suite_scores(view.measured), key=lambda score: not score.guided)
    criteria = {} if view.verdict is None else dict(view.verdict.figures.get("criteria", {}))
    parts = [
        Evidence(
            name=name,
            title=title,
            scores=[score for score in scores if score.suite in suites],
            findings={one.value: criteria.pop(one.value) for one in wanted if one.value in criteria},
        )
        for name, title, suites, wanted in _ORDER
    ]
    return [*parts, Evidence(name="measurement", title="The measurement itself", scores=(), findings=criteria)]


def differences(measured: Iterable[MeasuredView]) -> list[MeasuredView]:
    """Answers that differ: newly wrong ones first, then what was not trained on, then the others."""
    changed = [one for one in measured if one.before and one.after and one.before.text != one.after.text]
    return sorted(changed, key=lambda one: (not _is_broken(one), one.suite != Suite.HOLDOUT, not one.guided))


def _is_broken(one: MeasuredView) -> bool:
    return bool(one.before and one.after and one.before.passed and one.after.passed is False)
