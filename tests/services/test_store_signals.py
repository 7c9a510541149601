"""Feedback that is no report, or none yet: it is erased, removed after a while, and told to operators."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from connectors.messages import decode
from daemon.config import Config
from daemon.errors import NotFoundError
from daemon.labels import Lost, SignalState
from daemon.operations.erasure import erase
from daemon.operations.views import report_view
from daemon.records import Source, utcnow
from daemon.store import Added, Store
from tests.fixtures.config import flagged
from tests.fixtures.stores import add

SECRET = "the secret of Ada"
THUMB = {"id": "thumb", "completion_id": "chatcmpl-1", "rating": "down", "comment": SECRET, "reporter": "Ada"}


def send(store: Store, **changes: object) -> list[Added]:
    message = decode(json.dumps({**THUMB, **changes}).encode())
    return store.reports.add([(message, Source(channel="http", principal="chat"))])


def test_an_erased_signal_has_no_content_and_does_not_come_back(store: Store) -> None:
    assert send(store) == [Added.WAITING]
    store.signals.erase("thumb", actor="ops", reason="asked for")
    erased = store.signals.get("thumb")
    assert erased.state is SignalState.ERASED
    assert not {SECRET, "Ada", "chatcmpl-1"} & set(erased.flagged.encode().decode().split('"'))
    assert send(store) == [Added.REDELIVERED]
    assert store.signals.due(limit=10) == []
    assert [(one.action, one.subject) for one in store.audit.entries(limit=1)] == [("erase", "thumb")]
    with pytest.raises(NotFoundError):
        store.signals.erase("unknown", actor="ops", reason="x")


def test_the_command_that_erases_reports_erases_signals(
    sqlite_store: Store, make_config: Callable[..., Config]
) -> None:
    send(sqlite_store)
    certificate = erase(sqlite_store, make_config(), "thumb", actor="ops", reason="asked for")
    assert (certificate["report_id"], certificate["adapters"]) == ("thumb", [])
    assert [sorted(one) for one in certificate["remains"]] == [["until", "what", "where"]] * 2
    assert sqlite_store.signals.get("thumb").state is SignalState.ERASED


def test_the_certificate_of_a_report_names_the_thumbs_up_of_its_answer(sqlite_store: Store) -> None:
    down = flagged(id="down")
    up = flagged(id="up", rating="up", messages=down.messages, response=down.response)
    assert add(sqlite_store, down) == [Added.STORED]
    assert add(sqlite_store, up) == [Added.KEPT]
    assert sqlite_store.reports.same_answer("down") == ["up"]


def test_old_signals_are_removed_and_those_that_wait_stay(store: Store) -> None:
    send(store)
    send(store, id="given-up")
    store.signals.give_up(store.signals.get("given-up"), Lost.SEVERAL)
    assert store.signals.remove(before=utcnow() - timedelta(days=1)) == 0
    assert store.signals.remove(before=utcnow() + timedelta(days=1)) == 1
    assert store.signals.counts()[SignalState.WAITING] == 1


def test_operators_are_told_what_became_of_a_signal(sqlite_store: Store, make_config: Callable[..., Config]) -> None:
    send(sqlite_store)
    with pytest.raises(
        NotFoundError, match=r"thumb, sent by chat, is no report \(waiting\): received; waiting"
    ) as info:
        report_view(sqlite_store, make_config(), "thumb")
    assert SECRET not in str(info.value)
    with pytest.raises(NotFoundError, match="no report and no feedback has the id"):
        report_view(sqlite_store, make_config(), "unknown")
