"""From rows to records. A column has the name of its field, but for the few exceptions here."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from connectors.messages import FlaggedResponse
from daemon.parts import Part
from daemon.records import Report, Source, Verdict

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")


def record(kind: type[R], row: Any, **others: object) -> R:
    """The record of a row; `others` are the fields that are no column of that name."""
    return kind(**{name: getattr(row, name) for name in _names(kind) if name not in others}, **others)


def report(row: Any, others: tuple[Part, ...] = ()) -> Report:
    source = Source(
        channel=row.channel, principal=row.principal, partition=row.kafka_partition, offset=row.kafka_offset
    )
    return record(Report, row, flagged=FlaggedResponse.model_validate(row.flagged), source=source, others=others)


def verdict(row: Any) -> Verdict:
    return record(Verdict, row, reasons=tuple(row.reasons))


@cache
def _names(kind: type[DataclassInstance]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
