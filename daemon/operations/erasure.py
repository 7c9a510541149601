"""Erases a report everywhere this process reaches: database, run folders, caches, dead letters; and signs what it did.

The order makes every crash harmless: files first, while the database still has the text to search for; then the
database; then the files again, for what a stage wrote meanwhile; then the broker. To erase an erased report again
completes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from connectors.chat import EndpointError
from connectors.guidance import SYSTEM_ROLES
from connectors.kafka.client import KafkaUnavailableError
from connectors.kafka.consumer import RawRecord
from connectors.kafka.letters import Letters, bury_letters
from daemon.artifacts.scrub import scrub_lesson_answers, scrub_replay, scrub_runs, search
from daemon.config import Config
from daemon.dataset.embeddings import vector_file
from daemon.dataset.teaching import LESSON_ANSWERS
from daemon.errors import ErratadError, IllegalTransitionError, NotFoundError
from daemon.operations.archiving import take_out
from daemon.operations.remains import Remains
from daemon.privacy.certificate import signed
from daemon.privacy.keys import Keys
from daemon.records import (
    ACTOR,
    Adapter,
    AdapterState,
    AfterErasure,
    IntentKind,
    Report,
    ReportState,
    RunState,
    Split,
    utcnow,
)
from daemon.runtime.kafka_options import kafka_options
from daemon.serving.connect import administered
from daemon.store import Store
from daemon.store.rows import lesson_texts
from daemon.text.quotes import Quotes

log = structlog.get_logger(__name__)
FORGET_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """What the report said, as long as it is known: an erased report has no text any more."""

    report: Report
    quotes: Quotes
    system: frozenset[str]
    """Its system message, if no other report has it."""

    @classmethod
    def of(cls, store: Store, report: Report) -> _Text:
        if report.state == ReportState.ERASED:
            return cls(report=report, quotes=Quotes(()), system=frozenset())
        lesson = store.reports.lesson(report.id)
        made = () if lesson is None else lesson_texts(lesson)
        first = report.messages[0]
        own = first.role in SYSTEM_ROLES and first.text.strip() and not store.reports.others_with(first.text, report.id)
        system = frozenset({first.text}) if own else frozenset()
        return cls(report=report, quotes=Quotes.of(report.flagged, *made), system=system)


def erase(store: Store, config: Config, report_id: str, *, actor: str, reason: str) -> dict[str, Any]:
    """Erase a report and return the signed certificate, which is also kept (`Erasures.get`).

    Raises:
        NotFoundError: The report is unknown.
        ConfigError: The key of section `privacy` is unusable. Nothing is erased.
        StoreUnavailableError: The database does not answer; erase again.
        ArchiveError: The report is archived, and its file cannot be read or written anew. Erase again.
    """
    keys, after = Keys.of(config), config.privacy.after_erasure
    take_out(store, config, report_id, actor=actor, reason=reason)
    try:
        report = store.reports.get(report_id)
    except NotFoundError:
        return _erase_signal(store, config, report_id, keys, actor=actor, reason=reason)
    said, same = _Text.of(store, report), store.reports.same_answer(report_id)
    exchange = _forget_exchange(config, _completion_id(store, report))
    if report.state != ReportState.ERASED:
        _scrub(config.data_dir, said, [report_id])
        store.reports.erase(report_id, actor=actor, reason=reason, after=after)
    erasure = store.erasures.get(report_id)
    ended = _end_run(store, erasure.lessons, erasure.after)
    erased = _scrub(config.data_dir, said, erasure.lessons)
    adapters = store.erasures.adapters(report_id)
    if erasure.certificate is None:
        _replace(store, adapters, erasure.after, report_id)
    remains = Remains(store=store, config=config, report=report)
    remains.note_always(same)
    remains.note_exchange(exchange)
    remains.note_database(emptied=store.erasures.purge())
    remains.note_letters(*_letters(config, said))
    remains.note_adapters(adapters, erasure.after)
    looked, found = search(config.data_dir, said.quotes.needles())
    remains.note_files(found, without_text=report.state == ReportState.ERASED)
    certificate = signed(
        {
            "version": 1,
            "report_id": report_id,
            "erased_at": erasure.erased_at.isoformat(),
            "certified_at": utcnow().isoformat(),
            "erased_by": erasure.actor,
            "after_erasure": erasure.after,
            "erased": {"database": True, **erased, "run_ended": ended, "files_searched": looked, "exchange": exchange},
            "adapters": [_row(adapter) for adapter in adapters],
            "remains": remains.found,
        },
        keys,
    )
    store.erasures.certify(report_id, certificate)
    log.info("report_erased", report_id=report_id, adapters=len(adapters), remains=len(remains.found))
    return certificate


def _erase_signal(
    store: Store, config: Config, signal_id: str, keys: Keys, *, actor: str, reason: str
) -> dict[str, Any]:
    """Erase feedback that is no report, or none yet: nothing was trained on it. The certificate is not kept."""
    signal = store.signals.get(signal_id)
    exchange = _forget_exchange(config, signal.flagged.completion_id)
    store.signals.erase(signal_id, actor=actor, reason=reason)
    purged = store.erasures.purge()
    log.info("feedback_erased", feedback=signal_id)
    now = utcnow().isoformat()
    return signed(
        {
            "version": 1,
            "report_id": signal_id,
            "erased_at": now,
            "certified_at": now,
            "erased_by": actor,
            "after_erasure": config.privacy.after_erasure,
            "erased": {"database": True, "database_emptied": purged, "exchange": exchange},
            "adapters": [],
            "remains": [
                _remain("the message as it was sent", f"topic {signal.source.channel}, if it is one", "it expires"),
                _remain("copies made before", "backups and snapshots of the database", "they are deleted"),
            ],
        },
        keys,
    )


def _remain(what: str, where: str, until: str) -> dict[str, str]:
    return {"what": what, "where": where, "until": until}


def _completion_id(store: Store, report: Report) -> str | None:
    """Also of a report that is erased: its certificate says what was to be forgotten."""
    if report.state != ReportState.ERASED:
        return report.flagged.completion_id
    earlier = store.erasures.get(report.id).certificate or {}
    known: str | None = (earlier.get("erased", {}).get("exchange") or {}).get("completion_id")
    return known


def _forget_exchange(config: Config, completion_id: str | None) -> dict[str, Any] | None:
    """Let all servers forget the completion; None: they keep none, or it has no name."""
    if completion_id is None or not config.serving.exchanges.enabled:
        return None
    forgotten: list[str] = []
    not_reached: dict[str, str] = {}
    try:
        servers = administered(config, timeout_s=FORGET_TIMEOUT_S)
    except ErratadError as exc:
        return {"completion_id": completion_id, "forgotten_by": [], "not_reached": {"all servers": str(exc)}}
    for server in servers:
        try:
            server.forget_exchange(completion_id)
            forgotten.append(server.url)
        except EndpointError as exc:
            not_reached[server.url] = str(exc)
        finally:
            server.close()
    if not servers:
        not_reached["the managed server"] = "it does not run"
    return {"completion_id": completion_id, "forgotten_by": forgotten, "not_reached": not_reached}


def _scrub(data_dir: Path, said: _Text, report_ids: Sequence[str]) -> dict[str, int]:
    """Take the text out of the files of this data directory; returns the numbers of lines and files."""
    vectors = 0
    for text in said.quotes.texts:
        for path in (data_dir / "embeddings").glob(f"*/{vector_file(Path(), text).name}"):
            path.unlink(missing_ok=True)
            vectors += 1
    return {
        "dataset_lines": scrub_runs(data_dir / "runs", report_ids, said.quotes.without, said.system),
        "cached_answers": scrub_replay(data_dir / "replay", said.system)
        + scrub_lesson_answers(data_dir / LESSON_ANSWERS, report_ids),
        "cached_vectors": vectors,
    }


def _end_run(store: Store, lessons: Sequence[str], after: AfterErasure) -> int | None:
    """End the active run if it must not go on with the erased text; returns its id.

    A run in `preparing` goes on: it chooses its reports again (`Runs.prepared`).
    """
    run = store.runs.active()
    if run is None or run.state == RunState.PREPARING:
        return None
    items = [item for item in store.runs.items(run.id) if item.report_id in lessons]
    is_trained = any(item.role == Split.TRAIN for item in items)
    if not items or (run.state != RunState.TRAINING and (after == AfterErasure.KEEP or not is_trained)):
        return None
    try:
        store.runs.failed(run.id, reason=f"report {items[0].report_id} of its dataset was erased; start a new run")
    except IllegalTransitionError:  # it ended by itself
        return None
    return run.id


def _replace(store: Store, adapters: Sequence[Adapter], after: AfterErasure, report_id: str) -> None:
    """Ask for the successor of a live adapter that was trained on the report."""
    reason = f"report {report_id}, which it was trained on, is erased (privacy.after_erasure: {after})"
    live = [adapter for adapter in adapters if adapter.state == AdapterState.LIVE]
    target = store.erasures.untouched_target()
    if live and after == AfterErasure.RETIRE and target is not None:
        store.intents.request(IntentKind.ROLLBACK, actor=ACTOR, reason=reason, target_generation=target.generation)
    elif live and after == AfterErasure.RETRAIN:
        store.intents.request(IntentKind.TRAIN, actor=ACTOR, reason=reason)


def _letters(config: Config, said: _Text) -> tuple[Letters | None, str | None]:
    """The dead letters of the report, with a tombstone each; or why they were not looked for."""
    kafka = config.intake.kafka
    if kafka is None:
        return None, None
    sent_id = said.report.flagged.id
    named, quoted = sent_id.encode(), json.dumps(sent_id).encode()
    needles = [quoted, *said.quotes.needles()]

    def belongs(record: RawRecord) -> bool:
        return record.key == named or any(needle in (record.value or b"") for needle in needles)

    try:
        return bury_letters(kafka_options(kafka), kafka.dead_letter_topic, belongs), None
    except KafkaUnavailableError as exc:
        return None, str(exc)


def _row(adapter: Adapter) -> dict[str, Any]:
    return {"generation": adapter.generation, "name": adapter.name, "state": adapter.state}
