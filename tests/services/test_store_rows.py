"""From rows to records: a record read back has the types that its class names."""

from __future__ import annotations

from typing import Any, get_type_hints

from pydantic import TypeAdapter

from daemon.records import IntentKind, Trigger
from daemon.store import Store
from tests.fixtures.history import try_out


def test_every_field_of_a_record_read_back_has_the_type_of_its_class(history: Store) -> None:
    history.control.pause("finetune", actor="op", reason="maintenance")
    history.intents.request(IntentKind.TRAIN, actor="op", reason="now")
    history.inductions.start(trigger=Trigger.MANUAL, requested_by="op")
    try_out(history)
    for record in _of_every_kind(history):
        for name, kind in get_type_hints(type(record)).items():
            TypeAdapter(kind).validate_python(getattr(record, name), strict=True)  # takes no text for an enum


def _of_every_kind(store: Store) -> list[Any]:
    trained = store.reports.trainable(limit=1)
    assert trained
    return [
        *trained[0],
        *store.clusters.all(),
        *store.runs.find(),
        *store.runs.items(1),
        *store.runs.answers(1),
        store.runs.verdict(1),
        *store.adapters.find(),
        store.trials.current(),
        store.inductions.last(),
        *store.intents.recent(),
        *store.audit.entries(),
        *store.control.pauses(),
        *store.control.heartbeats(),
    ]
