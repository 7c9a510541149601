"""Takes one report's text out of every table. Ids, times, states and lineage stay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, select, true, update

from connectors.messages import FlaggedResponse
from daemon.store import schema
from daemon.store.decision_table import forget
from daemon.store.duplicates import take_out
from daemon.store.leader_words import erase_leaders
from daemon.store.left_out import erase_details
from daemon.store.originals import erase_original
from daemon.store.rows import lesson, lesson_texts
from daemon.store.standing import hand_over
from daemon.text.quotes import ERASED, Quotes

ERASED_KEY = "erased"
"""In place of the hash of an erased report's message: every message with its id is a redelivery then."""

_ABOUT_OTHERS: tuple[tuple[Table, str, str | None], ...] = (
    (schema.audit, "reason", "at"),
    (schema.intents, "reason", "created_at"),
    (schema.intents, "outcome", "created_at"),
    (schema.runs, "reason", "updated_at"),
    (schema.runs, "progress", "updated_at"),
    (schema.adapters, "reason", "updated_at"),
    (schema.verdicts, "reasons", "decided_at"),
    (schema.verdicts, "figures", "decided_at"),
    (schema.inductions, "reason", "updated_at"),
    (schema.pauses, "reason", "at"),
    (schema.stages, "sentence", None),
    (schema.deliveries, "error", "updated_at"),
    (schema.outbox, "event", "created_at"),
    (schema.reports, "state_reason", "updated_at"),
)
"""Columns with texts of operators, servers and the daemon, which may quote a report, and the time of the text."""


def quotes_of(connection: Connection, row: Any) -> Quotes:
    """The texts of the report (its row) and of its lesson."""
    lessons = schema.lessons
    made = connection.execute(select(lessons).where(lessons.c.report_id == row.id)).one_or_none()
    more = () if made is None else lesson_texts(lesson(made))
    return Quotes.of(FlaggedResponse.model_validate(row.flagged), *more)


def blank(row: Any) -> dict[str, Any]:
    """The values of an erased report's row (beside state and reason)."""
    flagged = {
        **row.flagged,
        "messages": [{"role": "user", "content": ERASED}],
        "response": ERASED,
        "reason": ERASED,
        "reporter": "erased",
        "metadata": {},
    }
    for key in (
        "follow_up",
        "correction",
        "checks",
        "tenant",
        "locale",
        "tool_calls",
        "not_trainable",
        "completion_id",
        "rating",
    ):
        flagged.pop(key, None)
    return {
        "flagged": flagged,
        "fingerprint": ERASED_KEY,
        "content_key": hashlib.sha256(f"{ERASED_KEY} {row.id}".encode()).hexdigest(),
        "lease_owner": None,
        "lease_until": None,
        "reporter": ERASED_KEY,
        "tenant": None,
        "evidence_detail": None,
    }


def erase_lesson(connection: Connection, row: Any, *, is_duplicate: bool) -> list[str]:
    """Delete what was learned from the report; returns the ids of the reports whose lesson held its text."""
    lessons, answers = schema.lessons, schema.answers
    touched = [row.id]
    if is_duplicate and take_out(connection, row):
        touched.append(row.duplicate_of)
    forget(connection, touched)
    connection.execute(lessons.delete().where(lessons.c.report_id == row.id))
    connection.execute(update(answers).where(answers.c.item_id == row.id).values(text=ERASED))
    erase_leaders(connection, [row.id])
    erase_details(connection, row.id)
    erase_original(connection, row.id)
    hand_over(connection, row.id)
    return touched


def erase_quotes(connection: Connection, row: Any, quotes: Quotes) -> None:
    """Take quotes of the report out of all texts that were written since it came."""
    audit, outbox = schema.audit, schema.outbox
    _rewrite(connection, audit, "reason", audit.c.subject == row.id, quotes.close)
    _rewrite(connection, outbox, "event", outbox.c.event["subject"].as_string() == row.id, quotes.close)
    for table, column, since in _ABOUT_OTHERS:
        later = true() if since is None else table.c[since] >= row.received_at
        _rewrite(connection, table, column, and_(table.c[column].is_not(None), later), quotes.loose)


def _rewrite(
    connection: Connection, table: Table, column: str, condition: ColumnElement[bool], change: Callable[[str], str]
) -> None:
    keys = list(table.primary_key.columns)
    for found in connection.execute(select(*keys, table.c[column].label("said")).where(condition)).all():
        new = _changed(found.said, change)
        if new != found.said:
            same = and_(*(key == getattr(found, key.name) for key in keys))
            connection.execute(update(table).where(same).values({column: new}))


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        # of an event, only the data is free text
        return {**value, "data": _changed(value["data"], change)} if "data" in value else _items(value, change)
    return [_changed(item, change) for item in value] if isinstance(value, list) else value


def _items(value: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    return {key: _changed(item, change) for key, item in value.items()}
