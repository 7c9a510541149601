"""The backend on the store of a configuration. It works while no daemon runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from daemon.cli.backend import Document, ReportAction, Request
from daemon.cli.options import opened, operator
from daemon.operations.status import status
from daemon.operations.views import ReportRow, RunRow, generation_view, report_view, run_view
from daemon.records import AdapterState
from daemon.report_filter import ALL, ReportFilter

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from daemon.config import Config
    from daemon.store import Store


class LocalBackend:
    """Acts in the name of the OS user. The store is opened at its first use, and closed with `still_open`."""

    where = ""

    def __init__(self, config: Config, still_open: ExitStack) -> None:
        self._config = config
        self._still_open = still_open
        self._actor = operator()

    @cached_property
    def _store(self) -> Store:
        """Raises ConfigError and StoreUnavailableError."""
        return self._still_open.enter_context(opened(self._config))

    # --- read ---

    def status(self) -> Document:
        return _document(status(self._store, self._config))

    def reports(self, wanted: ReportFilter = ALL, *, limit: int) -> list[Document]:
        return _documents(ReportRow.of(report) for report in self._store.reports.find(wanted, limit=limit))

    def report(self, report_id: str) -> Document:
        return _document(report_view(self._store, self._config, report_id))

    def review_queue(self, *, limit: int) -> Document:
        from daemon.operations.reviews import review_queue

        return _document(review_queue(self._store, limit=limit))

    def lessons(self, *, limit: int) -> list[Document]:
        return _documents(self._store.reports.lessons(limit=limit))

    def runs(self, *, limit: int) -> list[Document]:
        return _documents(RunRow.of(run) for run in self._store.runs.find(limit=limit))

    def run(self, run_id: int) -> Document:
        return _document(run_view(self._store, run_id))

    def adapters(self, *, state: str | None = None, limit: int) -> list[Document]:
        wanted = None if state is None else AdapterState(state)
        return _documents(self._store.adapters.find(state=wanted, limit=limit))

    def adapter(self, generation: int) -> Document:
        return _document(generation_view(self._store, generation))

    def audit(self, *, limit: int) -> list[Document]:
        return _documents(self._store.audit.entries(limit=limit))

    def intent(self, intent_id: int) -> Document:
        return _document(self._store.intents.get(intent_id))

    def certificate(self, report_id: str) -> Document:
        return dict(self._store.erasures.get(report_id).certificate or {})

    def certificate_key(self) -> str:
        from daemon.privacy.certificate import public_key
        from daemon.privacy.keys import Keys

        return public_key(Keys.of(self._config))

    # --- reports ---

    def act_on(self, report_id: str, action: ReportAction, *, reason: str) -> None:
        match action:
            case "accept":
                self._store.reviews.accept(report_id, actor=self._actor, reason=reason)
            case "bury":
                self._store.reviews.reject(report_id, actor=self._actor, reason=reason)
            case "requeue":
                self._store.reports.requeue(report_id, actor=self._actor, reason=reason)
            case "evidence":
                self._store.evidence.look_again(report_id, actor=self._actor, reason=reason)

    def correct(self, report_id: str, *, analysis: str, correction: str | None, reason: str) -> None:
        from daemon.operations import commands

        commands.correct_analysis(
            self._store,
            report_id,
            analysis=analysis,
            correction=correction,
            actor=self._actor,
            reason=reason,
            max_characters=self._config.reflection.max_correction_characters,
        )

    def original(self, report_id: str, *, reason: str) -> Document:
        from daemon.operations import commands

        return _document(commands.read_original(self._store, self._config, report_id, actor=self._actor, reason=reason))

    def erase(self, report_id: str, *, reason: str) -> Document:
        from daemon.operations.erasure import erase

        return dict(erase(self._store, self._config, report_id, actor=self._actor, reason=reason))

    # --- steer ---

    def request(self, kind: Request, *, generation: int | None = None, reason: str) -> Document:
        from daemon.operations import commands

        store, actor = self._store, self._actor
        match kind:
            case "train":
                intent = commands.request_training(store, actor=actor, reason=reason)
            case "induce":
                intent = commands.request_induction(store, actor=actor, reason=reason)
            case "promote":
                intent = commands.request_promotion(store, generation or 0, actor=actor, reason=reason)
            case "rollback":
                intent = commands.request_rollback(store, generation, actor=actor, reason=reason)
            case "approve":
                intent = commands.approve(store, generation or 0, actor=actor, reason=reason)
        return _document(intent)

    def reject(self, generation: int, *, reason: str) -> None:
        from daemon.operations import commands

        commands.reject_candidate(self._store, generation, actor=self._actor, reason=reason)

    def pause(self, stage: str, *, reason: str) -> None:
        from daemon.operations import commands

        commands.pause(self._store, stage, actor=self._actor, reason=reason)

    def resume(self, stage: str, *, reason: str) -> bool:
        from daemon.operations import commands

        return commands.resume(self._store, stage, actor=self._actor, reason=reason)


def _documents(values: Iterable[object]) -> list[Document]:
    return [_document(value) for value in values]


def _document(value: object) -> Document:
    """A record or a view as the HTTP API gives it. NaN becomes null."""
    kind: Any = type(value)
    found: Document = json.loads(_adapter(kind).dump_json(value))
    return found


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
