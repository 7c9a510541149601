"""The demo's results: each flagged answer before and after, those that were not trained on first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.table import Table

from connectors.chat import Reply
from daemon.demo.scenario import ScenarioQuestion
from daemon.operations.views import GenerationView
from daemon.records import ReportState

SIDES = {"held_out": "not trained on", "trained": "trained on"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BeforeAfter:
    """One flagged question, asked again after the run."""

    id: str
    category: str
    held_out: bool
    before: str
    after: str
    outcome: ReportState | None
    """What the run found out, as for every report; None: too little, or the report was left out of it."""
    counts: str
    fixed: bool
    """Resolved by the generation that is live now."""
    generation: str


def results_of(
    questions: Iterable[ScenarioQuestion],
    before: Mapping[str, Reply],
    after: Mapping[str, Reply],
    generation: GenerationView,
) -> list[BeforeAfter]:
    """Held-out questions first."""
    retests = {retest.report_id: retest for retest in generation.retests}
    live = generation.adapter.promoted_at is not None
    held_out = set(generation.held_out)
    found = []
    for question in questions:
        retest = retests.get(question.id)
        outcome = None if retest is None else retest.outcome
        found.append(
            BeforeAfter(
                id=question.id,
                category=question.category,
                held_out=question.id in held_out,
                before=before[question.id].text,
                after=after[question.id].text,
                outcome=outcome,
                counts="" if retest is None else retest.counts,
                fixed=live and outcome is ReportState.RESOLVED,
                generation=after[question.id].model,
            )
        )
    return sorted(found, key=lambda one: not one.held_out)


def sides_of(generation: GenerationView) -> dict[str, Any]:
    """Counts of held-out and trained reports, by the gate's own figures. Nothing is fixed by a rejected candidate."""
    live = generation.adapter.promoted_at is not None
    figures = {} if generation.verdict is None else generation.verdict.figures
    sides: dict[str, Any] = {}
    for name in SIDES:
        counts = figures.get(name, {})
        sides[name] = {
            "items": counts.get("items", 0),
            "fixed": counts.get("fixed", 0) if live else 0,
            "before": counts.get("before", 0),
        }
    not_reproduced = sum(figures.get(name, {}).get("not_reproduced", 0) for name in SIDES)
    return {**sides, "not_reproduced": not_reproduced}


def seconds_to_live(flagged_at: datetime, generation: GenerationView) -> float | None:
    """From the first flag until every server answered as the new generation; None: it did not go live."""
    live_at = generation.adapter.promoted_at
    return None if live_at is None else round((live_at - flagged_at).total_seconds(), 1)


def results_table(results: Sequence[BeforeAfter]) -> Table:
    table = Table("report", "before", "after", "outcome", title="Flagged answers, before and after", show_lines=True)
    for name, title in SIDES.items():
        side = [result for result in results if result.held_out == (name == "held_out")]
        table.add_section()
        table.add_row(f"[bold]{title}[/bold]", "", "", f"{sum(one.fixed for one in side)} of {len(side)} fixed")
        for result in side:
            style = "green" if result.fixed else "red"
            outcome = "fixed" if result.fixed else (result.outcome or "not decided")
            verdict = f"[{style}]{outcome}[/{style}]\n{result.counts}"
            table.add_row(result.id, _flat(result.before), _flat(result.after), verdict)
    return table


def verdict_sentence(summary: Mapping[str, Any]) -> str:
    """What came of it, in one sentence; mistakes that were not trained on come first."""
    if not summary["gate"]["accepted"]:
        return (
            f"No adapter went live, because {'; '.join(summary['gate']['reasons'])}; {summary['live_adapter']} answers."
        )
    fixed = " and ".join(
        f"{summary[name]['fixed']} of {summary[name]['items']} mistakes that were {title}"
        for name, title in SIDES.items()
    )
    requests = summary["requests"]
    return (
        f"{summary['live_adapter']} is live and fixes {fixed}; while it took over, {requests['failed']} of "
        f"{requests['failed'] + requests['served']} requests failed."
    )


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("[", r"\[")
