"""What an erasure leaves behind: what, where, until when, and what removes it earlier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from connectors.kafka.client import KafkaUnavailableError
from connectors.kafka.letters import Letters, topic_settings
from daemon.config import Config
from daemon.records import Adapter, AdapterState, AfterErasure, Report, utcnow
from daemon.runtime.kafka_options import kafka_options
from daemon.store import Store

UNTIL_RETENTION = "the retention of the topic ends"


class Remains:
    """Collects the entries of a certificate, each with `what`, `where`, `until` and, if there is a way, `earlier`."""

    def __init__(self, *, store: Store, config: Config, report: Report) -> None:
        self._store = store
        self._config = config
        self._report = report
        self.found: list[dict[str, str]] = []

    def _note(self, what: str, where: str, until: str, earlier: str = "") -> None:
        self.found.append({"what": what, "where": where, "until": until, **({"earlier": earlier} if earlier else {})})

    def note_always(self, same: Sequence[str]) -> None:
        self._note("id, times, states, category and lineage, without text", "database, manifests, audit log", "kept")
        self._note("copies made before", "backups and snapshots of data_dir and of the database", "they are deleted")
        if same:
            self._note("the same conversation and answer", f"reports {', '.join(same)} by others", "they are erased")
        source, kafka = self._report.source, self._config.intake.kafka
        if source.offset is not None and kafka is not None:
            self._note(
                "the message as it was sent",
                f"topic {source.channel}, partition {source.partition}, offset {source.offset}",
                self._until(source.channel),
                "kafka-delete-records.sh (docs/runbook.md)",
            )

    def note_exchange(self, forgotten: Mapping[str, Any] | None) -> None:
        """The model answered before the report was received, so its exchange is forgotten by then plus `ttl_s`.

        `forgotten`: which servers have deleted it, and which did not answer.
        """
        exchanges = self._config.serving.exchanges
        until = self._report.received_at + timedelta(seconds=exchanges.ttl_s)
        if not exchanges.enabled or until <= utcnow():
            return
        ends = f"{until:%Y-%m-%d %H:%M} UTC (serving.exchanges.ttl_s)"
        if forgotten is None:
            what = "the exchange of the completion, which the report does not name, if it came from these servers"
            self._note(what, "memory of the model servers", ends, "a restart of the servers")
            return
        for server, why in forgotten["not_reached"].items():
            self._note(
                f"the exchange of completion {forgotten['completion_id']}, if it came from there",
                f"memory of the model server {server}: not reached ({why})",
                ends,
                "erase it again, restart the server, or DELETE /erratad/v1/exchanges/ID with the admin token",
            )

    def note_database(self, *, emptied: bool) -> None:
        if not emptied:
            self._note("earlier pages", "the write-ahead log of SQLite", "its readers end", "erase it again")
        if self._config.store_url.startswith("postgresql"):
            self._note(
                "earlier row versions",
                "freed pages and the log of PostgreSQL",
                "they are used again and archives expire",
            )

    def note_letters(self, letters: Letters | None, problem: str | None) -> None:
        kafka = self._config.intake.kafka
        if kafka is None:
            return
        topic = kafka.dead_letter_topic
        if letters is None or not letters.complete:
            why = problem or "it is too long to be read at once"
            self._note(
                "perhaps dead letters", f"topic {topic}, not searched: {why}", self._until(topic), "erase it again"
            )
        if letters is not None:
            self._note_found(letters, topic)

    def _note_found(self, letters: Letters, topic: str) -> None:
        for place in letters.places:
            compacts = place not in letters.without_key and "compact" in (letters.policy or "")
            self._note(
                "a dead letter",
                f"topic {topic}, partition {place[0]}, offset {place[1]}",
                "the broker compacts the topic" if compacts else _until(letters.retention_ms),
                "" if compacts else "kafka-delete-records.sh (docs/runbook.md)",
            )

    def note_adapters(self, adapters: Sequence[Adapter], after: AfterErasure) -> None:
        until = {
            AfterErasure.KEEP: "it is retired and removed (storage.keep_adapters)",
            AfterErasure.RETIRE: "no server has it loaded any more",
            AfterErasure.RETRAIN: "another generation is live",
        }
        for adapter in adapters:
            if adapter.path is not None and adapter.files_removed_at is None:
                live = ", live" if adapter.state == AdapterState.LIVE else ""
                self._note("weights trained on it", f"adapter {adapter.name}{live}", until[after])

    def note_files(self, found: Mapping[Path, Sequence[bytes]], *, without_text: bool) -> None:
        for path, needles in found.items():
            shared = {one for needle in needles for one in self._others_with(needle)}
            where = str(path.relative_to(self._config.data_dir))
            said = f", of other reports: {', '.join(sorted(shared)[:5])}" if shared else ""
            self._note(f"some of its text{said}", where, "they are erased, too" if shared else "the file is deleted")
        if without_text:
            self._note("nothing was searched by text", "data_dir", "the text was erased before, its ids were searched")

    def _others_with(self, needle: bytes) -> list[str]:
        return self._store.reports.others_with(needle.decode(errors="replace"), self._report.id)

    def _until(self, topic: str) -> str:
        kafka = self._config.intake.kafka
        if kafka is None:
            return UNTIL_RETENTION
        try:
            retention = topic_settings(kafka_options(kafka), topic).get("retention.ms", "")
        except KafkaUnavailableError:
            return UNTIL_RETENTION
        return _until(int(retention) if retention.isdecimal() else None)


def _until(retention_ms: int | None) -> str:
    if retention_ms is None:
        return UNTIL_RETENTION
    return f"{utcnow() + timedelta(milliseconds=retention_ms):%Y-%m-%d}, by the retention of the topic"
