"""What is shown of the measurements of a run: its answers in pairs, and the reports that were asked again."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from daemon.adapter_names import trained_name
from daemon.labels import Suite
from daemon.records import Answer, ReportState
from daemon.store import Store


class View(BaseModel):
    """A part of an answer of the API. An older command line that reads the answer ignores new fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)


class AnswerView(View):
    """One arm's part of an answer; the item's part stands once in `MeasuredView`."""

    arm: str
    text: str
    passed: bool | None
    margin: float | None
    """Log-likelihood of the good answer over the bad one, nats per token."""
    bits_per_token: float | None


class RetestView(View):
    """A report that a run asked again, as served: the answers of live (`before`) and of the candidate (`after`)."""

    run_id: int
    report_id: str
    before_passed: int
    before_answers: int
    after_passed: int
    after_answers: int
    outcome: ReportState | None
    """The state that the report deserves if the candidate goes live; null: too few answers to tell."""
    counts: str
    """In words, such as "0 of 4 good before, 4 of 4 after"."""


class MeasuredView(View):
    """One item with the greedy answers of the live generation (`before`) and of the candidate (`after`)."""

    run_id: int
    generation: int
    suite: str
    item_id: str
    guided: bool
    before: AnswerView | None
    after: AnswerView | None
    samples: list[AnswerView]
    """Further answers, drawn with a temperature, where the greedy ones do not decide."""


def measured_views(store: Store, answers: Iterable[Answer]) -> list[MeasuredView]:
    runs: dict[int, tuple[int, str]] = {}
    pairs: dict[tuple[int, str, str, bool], dict[str, AnswerView]] = {}
    samples: dict[tuple[int, str, str, bool], list[AnswerView]] = {}
    for answer in answers:
        if answer.run_id not in runs:
            generation = store.runs.get(answer.run_id).generation
            runs[answer.run_id] = generation, store.adapters.get(generation).name
        candidate = runs[answer.run_id][1]
        if answer.arm != candidate and trained_name(answer.arm) == trained_name(candidate):
            continue  # a strength that is not served
        side = "after" if answer.arm == candidate else "before"
        key = answer.run_id, answer.suite, answer.item_id, answer.guided
        if answer.sample:
            samples.setdefault(key, []).append(AnswerView.model_validate(answer))
        else:
            pairs.setdefault(key, {})[side] = AnswerView.model_validate(answer)
    found = [
        MeasuredView(
            run_id=run_id,
            generation=runs[run_id][0],
            suite=suite,
            item_id=item_id,
            guided=guided,
            before=sides.get("before"),
            after=sides.get("after"),
            samples=samples.get((run_id, suite, item_id, guided), []),
        )
        for (run_id, suite, item_id, guided), sides in pairs.items()
    ]
    return sorted(found, key=lambda one: (one.run_id, one.suite != Suite.HOLDOUT))
