"""From rows to records. A column has the name of its field, but for the few exceptions here."""

from __future__ import annotations

from dataclasses import asdict, fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from connectors.messages import FlaggedResponse
from daemon.parts import Analysis, Part
from daemon.records import Lesson, Report, Source, Verdict

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")
_ANALYSES = TypeAdapter(tuple[Analysis, ...])


def record(kind: type[R], row: Any, **others: object) -> R:
    """The record of a row; `others` are the fields that are no column of that name."""
    return kind(**{name: getattr(row, name) for name in _names(kind) if name not in others}, **others)


def report(row: Any, others: tuple[Part, ...] = ()) -> Report:
    source = Source(
        channel=row.channel, principal=row.principal, partition=row.kafka_partition, offset=row.kafka_offset
    )
    return record(Report, row, flagged=FlaggedResponse.model_validate(row.flagged), source=source, others=others)


def lesson(row: Any) -> Lesson:
    return record(Lesson, row, analyses=_ANALYSES.validate_python(row.analyses or ()))


def lesson_values(lesson: Lesson) -> dict[str, Any]:
    """The values of a lesson's row."""
    return {**asdict(lesson), "analyses": analyses_value(lesson.analyses)}


def analyses_value(analyses: tuple[Analysis, ...]) -> Any:
    return _ANALYSES.dump_python(analyses, mode="json")


def history(lesson: Lesson) -> tuple[Analysis, ...]:
    """All analyses, oldest first. Of a lesson of an earlier version, the one that it has."""
    only = Analysis(text=lesson.analysis, analyst=lesson.analyst, template=lesson.template, at=lesson.created_at)
    return lesson.analyses or (only,)


def lesson_texts(lesson: Lesson) -> tuple[str, ...]:
    """All texts that were made from the report."""
    texts = (lesson.analysis, lesson.correction, *(one.text for one in lesson.analyses))
    return tuple(text for text in texts if text)


def verdict(row: Any) -> Verdict:
    return record(Verdict, row, reasons=tuple(row.reasons))


@cache
def _names(kind: type[DataclassInstance]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
