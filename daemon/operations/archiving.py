"""Stage "archive": moves closed reports of past months from the database into Parquet files; and brings them back.

`docs/operate.md` says which reports go. Each file is complete and compared before one transaction deletes its reports.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from daemon import metrics
from daemon.artifacts.archive_file import Rows, partial_of, read_reports, write_reports
from daemon.config import Config
from daemon.errors import ArchiveChangedError, ArchiveError, NotFoundError
from daemon.records import utcnow
from daemon.runtime.lock import try_lock
from daemon.runtime.stage import Life, Step
from daemon.store import Store
from daemon.store.archive_tables import ArchiveFile, FileState
from daemon.store.closed import Place

log = structlog.get_logger(__name__)

PASS_INTERVAL_S = 86_400.0
"""Between two passes over the closed reports: each leaves at most one small file for a month."""
RETRY_S = 300.0
LOCK_WAIT_S = 20.0
"""How long one waits until another process, or thread, is done with a file."""
_UNFINISHED = (FileState.WRITING, FileState.STALE, FileState.REMOVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A step of a pass. Without `place` the pass is over."""

    reports: int
    place: Place | None


class Archiver:
    def __init__(self, store: Store, config: Config) -> None:
        self._archive = store.archive
        self._config = config.storage.archive
        self._folder = config.archive_dir

    def before(self) -> datetime:
        """Reports that came before this time may go: the beginning of the month that is not old enough.

        Raises:
            ArchiveError: `storage.archive.after_days` is not set.
        """
        if self._config.after_days is None:
            raise ArchiveError("nothing is archived: set storage.archive.after_days")
        bound = utcnow().astimezone(UTC) - timedelta(days=self._config.after_days)
        return bound.replace(day=1, hour=0, minute=0, second=0, microsecond=0)

    def look(self, place: Place | None) -> Moved:
        """What `move` would do."""
        found = self._archive.find(before=self.before(), after=place, limit=self._config.batch)
        return Moved(reports=len(found.ids), place=found.place)

    def move(self, place: Place | None) -> Moved:
        """Move the reports of one file.

        Raises:
            ArchiveChangedError: A report changed meanwhile; nothing was moved.
            ArchiveError: The file cannot be written; nothing was moved.
        """
        with self._alone():
            self._clean_up()
            before = self.before()
            found = self._archive.find(before=before, after=place, limit=self._config.batch)
            if found.ids:
                reports = self._archive.rows(found.ids)
                with self._new_file(found.month, reports) as (file_id, sha256, size_bytes):
                    self._archive.move(file_id, reports, sha256=sha256, size_bytes=size_bytes, before=before)
        return Moved(reports=len(found.ids), place=found.place)

    def restore(self, files: Sequence[ArchiveFile], *, actor: str, reason: str) -> list[str]:
        """Put all reports of the files back; returns their ids. To restore again completes it."""
        with self._alone():
            back = [one for file in files for one in self._restore(file, None, actor=actor, reason=reason)]
            self._clean_up()
            return back

    def restore_report(self, report_id: str, *, actor: str, reason: str, undo: bool = True) -> list[str]:
        """Put one report back, with all reports of the same answer; returns their ids.

        Args:
            undo: See `Archive.restore`.

        Raises:
            NotFoundError: It is not archived.
        """
        with self._alone():
            file = self._archive.file_of(report_id)
            back = self._restore(file, report_id, actor=actor, reason=reason, undo=undo)
            self._clean_up()
            return back

    def clean_up(self) -> None:
        """End what a crash interrupted, and take reports that are back in the database out of their files.

        Raises:
            ArchiveError: A file cannot be written.
        """
        with self._alone():
            self._clean_up()

    def months(self, month: str) -> list[ArchiveFile]:
        """The files of a month. Raises NotFoundError: there are none."""
        return self._some([file for file in self._archive.files() if file.month == month], f"of {month}")

    def named(self, name: str) -> list[ArchiveFile]:
        """The file with this name, or path. Raises NotFoundError."""
        path = Path(name).absolute()
        return self._some(
            [file for file in self._archive.files() if name == file.name or self.path(file.name) == path], repr(name)
        )

    def search(self, text: str) -> Iterator[tuple[str, ArchiveFile]]:
        """The ids of archived reports with this text anywhere. It reads every file."""
        for file in self._archive.files():
            members = self._archive.members(file.id)
            for report_id, rows in read_reports(self.path(file.name), sha256=file.sha256 or "").items():
                if report_id in members and text.casefold() in json.dumps(rows, ensure_ascii=False).casefold():
                    yield report_id, file

    def path(self, name: str) -> Path:
        return self._folder.absolute() / name

    def _some(self, files: list[ArchiveFile], what: str) -> list[ArchiveFile]:
        if not files:
            raise NotFoundError(f"no file {what} is in the archive; `erratad archive list` shows them")
        return files

    def _restore(self, file: ArchiveFile, only: str | None, *, actor: str, reason: str, undo: bool = True) -> list[str]:
        reports = read_reports(self.path(file.name), sha256=file.sha256 or "")
        if only is not None:
            first = _first(only, reports)
            reports = {one: rows for one, rows in reports.items() if _first(one, reports) == first}
        return self._archive.restore(file.id, reports, actor=actor, reason=reason, undo=undo)

    def _clean_up(self) -> None:
        for file in self._archive.files(FileState.STALE):
            self._write_anew(file)
        for file in self._archive.files(FileState.WRITING):
            self._archive.give_up(file.id)
        self._delete_given_up()

    def _delete_given_up(self) -> None:
        for file in self._archive.files(FileState.REMOVED):
            for path in (partial_of(self.path(file.name)), self.path(file.name)):
                path.unlink(missing_ok=True)
            self._archive.forget(file.id)

    def _write_anew(self, file: ArchiveFile) -> None:
        """Without the reports that are back."""
        if self._archive.give_up(file.id):
            return
        kept = self._archive.members(file.id)
        found = read_reports(self.path(file.name), sha256=file.sha256 or "")
        reports = {one: rows for one, rows in found.items() if one in kept}
        with self._new_file(file.month, reports) as (new, sha256, size_bytes):
            self._archive.replace(file.id, new, reports, sha256=sha256, size_bytes=size_bytes)

    @contextmanager
    def _new_file(self, month: str, reports: dict[str, Rows]) -> Iterator[tuple[int, str, int]]:
        """Write a file; what fails in the block gives it up again. Yields its id, SHA-256 and size."""
        name = f"{month}/reports-{uuid.uuid4().hex}.parquet"
        file_id = self._archive.begin(name, month)
        try:
            sha256 = write_reports(self.path(name), reports)
            yield file_id, sha256, self.path(name).stat().st_size
        except (ArchiveError, OSError):
            self._archive.give_up(file_id)
            self._delete_given_up()
            raise

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ArchiveError(f"the archive's folder cannot be made: {exc}") from exc
        deadline = time.monotonic() + LOCK_WAIT_S
        while (lock := try_lock(self._folder / ".lock")) is None:
            if time.monotonic() > deadline:
                raise ArchiveError(f"another process works in {self._folder}; try again when it is done")
            time.sleep(0.05)
        with lock:
            try:
                yield
            except OSError as exc:
                raise ArchiveError(f"the archive in {self._folder} cannot be written: {exc}") from exc


def take_out(store: Store, config: Config, report_id: str, *, actor: str, reason: str) -> None:
    """Before a report is erased: bring it back, so that no file of the archive holds its text.

    Raises:
        ArchiveError: The file cannot be read or written anew. To take it out again completes it.
    """
    archiver = Archiver(store, config)
    if store.archive.holds(report_id):
        archiver.restore_report(report_id, actor=actor, reason=reason, undo=False)
    elif store.archive.files(*_UNFINISHED):
        archiver.clean_up()


def _first(report_id: str, reports: dict[str, Rows]) -> str:
    """The report that stands for the answer."""
    first: str | None = reports[report_id]["reports"][0]["duplicate_of"]
    return first or report_id


class ArchiveStage:
    """Exists where `storage.archive.after_days` is set. A failure is told and tried again."""

    name = "archive"
    idle_s = 60.0

    def __init__(self, store: Store, config: Config) -> None:
        self._archiver = Archiver(store, config)
        self._place: Place | None = None
        self._moved = 0
        self._next_at = 0.0
        self._sentence = ""

    def step(self, _life: Life) -> Step:
        if time.monotonic() < self._next_at:
            return Step(sentence=self._sentence)
        try:
            moved = self._archiver.move(self._place)
        except ArchiveChangedError as exc:
            self._rest(RETRY_S, str(exc))
            return Step(sentence=self._sentence)
        except ArchiveError as exc:
            metrics.ARCHIVE_FAILURES.inc()
            metrics.ARCHIVE_FAILING.set(1)
            log.warning("archive_failed", error=str(exc))
            self._rest(RETRY_S, f"nothing is archived: {exc}")
            return Step(sentence=self._sentence)
        metrics.ARCHIVE_FAILING.set(0)
        log.info("reports_archived", reports=moved.reports)
        self._place, self._moved = moved.place, self._moved + moved.reports
        if moved.place is None:
            self._rest(PASS_INTERVAL_S, f"archived {self._moved} reports in the last pass; the next one is in a day")
            self._moved = 0
        return Step(sentence=self._sentence or f"archived {self._moved} reports", worked=moved.place is not None)

    def _rest(self, seconds: float, sentence: str) -> None:
        self._next_at, self._sentence = time.monotonic() + seconds, sentence
