"""The progress of a run in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from daemon.labels import LEFT_OUT_TEXT

if TYPE_CHECKING:  # `erratad status` imports this module, and neither the views nor the store
    from daemon.operations.views import RunRow
    from daemon.records import Run


def span(seconds: float) -> str:
    """A duration in its largest fitting unit, e.g. ``3 min``."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def progress_text(run: Run | RunRow) -> str:
    """The progress of a run, e.g. ``training: step 12 of 40, loss 0.831, 2 min left``."""
    return "; ".join(_progress_parts(run.progress))


def _progress_parts(progress: Mapping[str, Any]) -> Iterator[str]:
    for name in ("examples", "left_out"):
        if counts := progress.get(name):
            # earlier versions stored the texts as keys
            counted = ", ".join(f"{count} {LEFT_OUT_TEXT.get(kind, kind)}" for kind, count in counts.items())
            yield f"{name.replace('_', ' ')}: {counted}"
    if grades := progress.get("grades"):
        yield f"grades of the reports: {', '.join(f'{count} {grade}' for grade, count in grades.items())}"
    yield from _left_out(progress.get("left_out_texts", {}))
    yield from _teachers(progress)
    if progress.get("steps"):
        loss, speed, left, far = (progress.get(name) for name in ("loss", "tokens_per_s", "eta_s", "kl_to_base"))
        yield ", ".join(
            (
                f"training: step {progress['step']} of {progress['steps']}",
                *([] if loss is None else [f"loss {loss:.3f}"]),
                *([] if far is None else [f"{far:.2f} nats from the base model"]),
                *([] if speed is None else [f"{speed:.0f} tokens/s"]),
                *([f"{span(left)} left"] if left else []),
            )
        )
    elif progress.get("phase") == "teacher":
        yield "training: asking the teacher"
    if skipped := progress.get("skipped_examples"):
        yield f"{skipped} examples left out by the trainer"
    if failed := progress.get("failed_attempts"):
        yield f"failed attempts: {failed}"
    if evaluation := progress.get("evaluation"):
        yield f"measured: {evaluation['done']} of {evaluation['total']} answers"
        yield from _left_out(evaluation.get("left_out", {}))


def _teachers(progress: Mapping[str, Any]) -> Iterator[str]:
    if recipes := progress.get("recipes"):
        yield f"recipes: {', '.join(f'{name} for {kind}' for kind, name in recipes.items())}"
    if flips := progress.get("flips"):
        counted = (f"{one['flipped']} of {one['lessons']} {kind}" for kind, one in flips.items())
        yield f"lessons with a teacher that helps: {', '.join(counted)}"
    if (blame := progress.get("hindsight_advantage")) is not None:
        yield f"complaints take {blame:.2f} nats per token from flagged answers"


def _left_out(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """One part per kind or suite."""
    for kind, reasons in counts.items():
        yield f"left out of {kind}: {', '.join(f'{count} {LEFT_OUT_TEXT[one]}' for one, count in reasons.items())}"
