"""Closed reports leave the database for files, and come back as they were; none is lost or doubled, whatever fails."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from sqlalchemy import select

from connectors.messages import EventType
from daemon import metrics
from daemon.artifacts import archive_file
from daemon.config import Config
from daemon.errors import ArchiveChangedError, ArchiveError, NotFoundError
from daemon.operations import archiving
from daemon.operations.archiving import Archiver, ArchiveStage
from daemon.operations.erasure import erase
from daemon.records import Answer, ReportState, Source, Split, utcnow
from daemon.store import Added, Store
from daemon.store.archive import Archive
from daemon.store.archive_tables import archive_files, archived, archived_items, restored
from daemon.store.schema import metadata
from tests.fixtures.closed import OLD, OTHER_MODEL, age, given_up
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.stores import add, force, learn, lesson, mark, promote, start_run, waiting_events

OWN = {
    archive_files.name,
    archived.name,
    archived_items.name,
    restored.name,
    "audit",
    "flag_days",
    "report_counts",
    "report_texts",
}
"""Tables that the archive, or the database itself, writes."""


class Killed(BaseException):
    """The process ends here: nothing that handles errors sees it."""


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config(storage={"archive": {"after_days": 60, "batch": 100}})


@pytest.fixture
def archiver(store: Store, config: Config) -> Archiver:
    return Archiver(store, config)


def fixed(store: Store) -> str:
    """An old report that generation 1 fixed, with two duplicates; generation 3 is live, and 1 and 2 have no files."""
    run = promote(store)
    [item] = store.runs.items(run.id)
    first = store.reports.get(item.report_id)
    others = [first.flagged.model_copy(update={"id": f"other-{n}", "reporter": f"reporter-{n}"}) for n in range(2)]
    assert add(store, *others) == [Added.DUPLICATE, Added.DUPLICATE]
    store.runs.save_answers(
        [
            Answer(run_id=run.id, suite="flagged", item_id=first.id, arm="live", guided=True, text="No.", margin=0.25),
            Answer(run_id=run.id, suite="golden", item_id=first.id, arm="live", guided=True, text="Another's."),
        ]
    )
    mark(store, [first.id], ReportState.RESOLVED, generation=1)
    promote(store)
    promote(store)
    store.adapters.files_removed(1, "old")
    store.adapters.files_removed(2, "old")
    age(store, first.id, *(one.id for one in others))
    return first.id


def everything(store: Store) -> dict[str, list[Any]]:
    tables = [table for name, table in metadata.tables.items() if name not in OWN]
    with store.engine.connect() as connection:
        return {
            table.name: connection.execute(select(table).order_by(*table.primary_key.columns)).all() for table in tables
        }


def in_files(config: Config) -> list[str]:
    """The ids in all files on the disk, whatever the database knows."""
    paths = sorted(config.archive_dir.rglob("*.parquet"))
    return [one for path in paths for one in parquet.ParquetFile(path).read().column("id").to_pylist()]


def hot(store: Store) -> set[str]:
    return {report.id for report in store.reports.find(limit=999)}


def moved(archiver: Archiver) -> int:
    """A whole pass."""
    place, count = None, 0
    while True:
        step = archiver.move(place)
        place, count = step.place, count + step.reports
        if place is None:
            return count


def test_a_closed_report_goes_with_all_that_belongs_to_it_and_comes_back_the_same(
    store: Store, archiver: Archiver, config: Config
) -> None:
    first = fixed(store)
    before, counts = everything(store), store.reports.counts()
    assert moved(archiver) == 3
    assert store.archive.total() == 3
    assert sorted(in_files(config)) == sorted([first, "other-0", "other-1"])
    assert counts[ReportState.RESOLVED] - store.reports.counts()[ReportState.RESOLVED] == 1
    assert sum(store.reports.counts().values()) == len(hot(store))
    assert [item.report_id for item in store.runs.items(1)] == [first]
    assert [adapter.generation for adapter in store.runs.trained_on(first)] == [1]
    assert [(one.suite, one.text) for one in store.runs.answers(1)] == [("golden", "Another's.")]
    with pytest.raises(NotFoundError, match=rf"archived in .*archive restore --report {first}"):
        store.reports.get(first)
    assert moved(archiver) == 0
    # one duplicate brings the others of the answer with it
    assert sorted(archiver.restore_report("other-1", actor="op", reason="asked")) == sorted(
        [first, "other-0", "other-1"]
    )
    assert everything(store) == before
    assert store.reports.counts() == counts
    assert (store.archive.total(), in_files(config)) == (0, [])
    with pytest.raises(NotFoundError, match="is archived"):
        archiver.restore_report("other-1", actor="op", reason="again")
    assert moved(archiver) == 0, "what came back stays a while"


def test_a_redelivery_of_an_archived_report_is_not_new_and_its_id_stays_taken(store: Store, archiver: Archiver) -> None:
    first = fixed(store)
    report = store.reports.get(first)
    message = report.flagged
    moved(archiver)
    assert add(store, message) == [Added.REDELIVERED]
    assert add(store, message.model_copy(update={"reason": "something else"})) == [Added.CONFLICT]
    [added] = store.reports.add([(message, Source(channel="test", principal="another"))])
    assert added is Added.STORED
    assert store.reports.sent("another", first).id == f"{first}@another"
    with pytest.raises(NotFoundError, match="is archived in"):
        store.reports.sent(report.source.principal, first)


def test_what_something_still_needs_stays(store: Store, archiver: Archiver) -> None:
    needed = {
        "of the live generation": store.runs.items(promote(store).id)[0].report_id,
        "open": learn(store, flagged())[0],
        "undoable": given_up(store),
        "too young": given_up(store),
    }
    mark(store, [needed["of the live generation"]], ReportState.RESOLVED, generation=1)
    force(store, "UPDATE adapters SET name = 'another' WHERE generation = 0")
    # the last decision of each person can be undone, also an old one
    force(store, "UPDATE decisions SET report_id = :id", id=needed["undoable"])
    age(store, *needed.values())
    age(store, needed["too young"], at=utcnow() - timedelta(days=61))
    neighbour, behind = learn(store, flagged(), flagged())
    cluster = store.clusters.open(report_id=neighbour, category="x", leader_text="Y", split=Split.TRAIN)
    force(store, "UPDATE reports SET cluster_id = :c WHERE id IN (:a, :b)", c=cluster.id, a=neighbour, b=behind)
    mark(store, [behind], ReportState.NOT_REPRODUCED, generation=0)
    age(store, behind)
    assert moved(archiver) == 0
    force(store, "UPDATE reports SET cluster_id = NULL WHERE id = :id", id=behind)
    assert moved(archiver) == 1
    assert behind not in hot(store)


def test_a_file_has_the_reports_of_one_month(store: Store, archiver: Archiver, config: Config) -> None:
    later = OLD + timedelta(days=31)
    ids = [given_up(store), given_up(store, at=later), given_up(store)]
    assert moved(archiver) == 3
    files = store.archive.files()
    assert [(file.month, file.reports) for file in files] == [(f"{OLD:%Y-%m}", 2), (f"{later:%Y-%m}", 1)]
    assert all(archiver.path(file.name).parent.name == file.month for file in files)
    assert archiver.restore(archiver.months(f"{later:%Y-%m}"), actor="op", reason="r") == [ids[1]]
    assert sorted(archiver.restore(archiver.named(files[0].name), actor="op", reason="r")) == sorted([ids[0], ids[2]])
    with pytest.raises(NotFoundError, match="no file of 1999-01"):
        archiver.months("1999-01")


STEPS: dict[str, tuple[Any, str]] = {
    "the file is announced": (Archive, "begin"),
    "the file is complete": (archiving, "write_reports"),
    "the reports are moved": (Archive, "move"),
    "the reports are back": (Archive, "restore"),
    "the file is replaced": (Archive, "replace"),
    "the file is given up": (Archive, "give_up"),
    "the file is deleted": (Archive, "forget"),
}


@pytest.mark.parametrize("after", [*STEPS, None])
def test_a_kill_at_any_step_neither_loses_nor_doubles_a_report(
    sqlite_store: Store, config: Config, monkeypatch: pytest.MonkeyPatch, after: str | None
) -> None:
    store, archiver = sqlite_store, Archiver(sqlite_store, config)
    ids = {given_up(store), given_up(store)}
    one = min(ids)
    before, others = everything(store), hot(store) - ids
    # None: the content is on the disk, and was not compared yet
    place, name = (archive_file, "read_reports") if after is None else STEPS[after]
    whole = getattr(place, name)

    def killed(*given: Any, **more: Any) -> Any:
        if after is not None:
            whole(*given, **more)
        raise Killed

    def work() -> None:
        moved(archiver)
        archiver.restore_report(one, actor="op", reason="r")

    with monkeypatch.context() as patch:
        patch.setattr(place, name, killed)
        with pytest.raises(Killed):
            work()
    left = hot(store) - others
    with store.engine.connect() as connection:
        gone = set(connection.execute(select(archived.c.id)).scalars())
    assert (left | gone, left & gone) == (ids, set())
    archiver.clean_up()
    assert set(in_files(config)) == gone, "no file holds what is back, or what never left"
    assert {path.suffix for path in config.archive_dir.rglob("*") if path.is_file()} <= {".parquet", ""}
    force(store, "DELETE FROM restored")
    assert moved(archiver) == len(left)
    assert archiver.restore(store.archive.files(), actor="op", reason="r")
    assert everything(store) | {"reports": []} == before | {"reports": []}
    assert sorted(everything(store)["reports"]) == sorted(before["reports"])


def test_a_report_that_changes_while_it_is_written_stays(
    store: Store, archiver: Archiver, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = given_up(store)
    whole = archiving.write_reports

    def slow(*given: Any) -> str:
        sha256 = whole(*given)
        store.reports.requeue(one, actor="ann", reason="it is one")
        return sha256

    monkeypatch.setattr(archiving, "write_reports", slow)
    with pytest.raises(ArchiveChangedError, match="changed"):
        archiver.move(None)
    assert (one in hot(store), store.archive.total(), in_files(config)) == (True, 0, [])


def test_nothing_moves_while_a_run_chooses_its_reports(store: Store, archiver: Archiver, config: Config) -> None:
    one = given_up(store)
    assert start_run(store) is not None
    with pytest.raises(ArchiveChangedError, match="a run chooses"):
        archiver.move(None)
    assert (one in hot(store), in_files(config)) == (True, [])


def test_an_erasure_reaches_the_archive(store: Store, archiver: Archiver, config: Config) -> None:
    first, other = fixed(store), given_up(store)
    moved(archiver)
    certificate = erase(store, config, first, actor="op", reason="ticket 1")
    assert [one["generation"] for one in certificate["adapters"]] == [1]
    assert store.reports.get(first).state is ReportState.ERASED
    assert store.runs.items(1)[0].report_id == first
    assert in_files(config) == [other], "the file is written without it"
    assert store.archive.total() == 1
    assert archiver.restore_report(other, actor="op", reason="r") == [other]
    assert EventType.REPORT_RECURRING not in {event.type for event in waiting_events(store)}


def test_an_erasure_that_was_interrupted_is_completed_by_the_next(
    sqlite_store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, archiver = sqlite_store, Archiver(sqlite_store, config)
    one, other = given_up(store), given_up(store)
    moved(archiver)
    with monkeypatch.context() as patch:
        patch.setattr(archiving, "write_reports", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(ArchiveError, match="No space left"):
            erase(store, config, one, actor="op", reason="ticket 1")
    assert sorted(in_files(config)) == sorted([one, other])
    erase(store, config, one, actor="op", reason="ticket 1")
    assert in_files(config) == [other]


def test_a_damaged_or_missing_file_is_refused_and_nothing_changes(sqlite_store: Store, config: Config) -> None:
    store, archiver = sqlite_store, Archiver(sqlite_store, config)
    one = given_up(store)
    moved(archiver)
    [file] = store.archive.files()
    path = archiver.path(file.name)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PAR1", b"PAR2"))
    with pytest.raises(ArchiveError, match="is not the file that was written"):
        archiver.restore_report(one, actor="op", reason="r")
    path.unlink()
    with pytest.raises(ArchiveError, match=r"cannot be read .*backup"):
        erase(store, config, one, actor="op", reason="r")
    assert store.archive.holds(one)
    path.write_bytes(content)
    assert archiver.restore_report(one, actor="op", reason="r") == [one]


def test_a_fix_that_was_rolled_back_meanwhile_is_open_again(sqlite_store: Store, config: Config) -> None:
    store, archiver = sqlite_store, Archiver(sqlite_store, config)
    first = fixed(store)
    moved(archiver)
    store.adapters.roll_back(0, expected_live=3, actor="op", reason="worse")
    archiver.restore_report(first, actor="op", reason="r")
    assert store.reports.get(first).state is ReportState.RECURRING


def test_the_partitions_of_archived_messages_stay_known(sqlite_store: Store, config: Config) -> None:
    store, archiver = sqlite_store, Archiver(sqlite_store, config)
    one = given_up(store)
    force(store, "UPDATE reports SET channel = 'topic', kafka_partition = 7 WHERE id = :id", id=one)
    moved(archiver)
    assert store.reports.partitions_of("topic") == {7}


def test_the_stage_tells_and_counts_a_failure_and_tries_again_later(
    sqlite_store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, before = ArchiveStage(sqlite_store, config), metrics.ARCHIVE_FAILURES._value.get()
    given_up(sqlite_store)
    config.archive_dir.parent.mkdir(parents=True, exist_ok=True)
    config.archive_dir.write_text("in the way")
    assert "nothing is archived: the archive's folder cannot be made" in stage.step(life()).sentence
    assert metrics.ARCHIVE_FAILURES._value.get() == before + 1
    assert metrics.ARCHIVE_FAILING._value.get() == 1
    config.archive_dir.unlink()
    assert "cannot be made" in stage.step(life()).sentence, "not at once"
    monkeypatch.setattr(stage, "_next_at", 0.0)
    while stage.step(life()).worked:
        pass
    assert metrics.ARCHIVE_FAILING._value.get() == 0
    assert stage.step(life()).sentence == "archived 1 reports in the last pass; the next one is in a day"


def test_a_report_analysed_by_a_lesson_keeps_it(sqlite_store: Store, config: Config) -> None:
    """A rejected lesson: its history, its review and its original come back, too."""
    store, archiver = sqlite_store, Archiver(sqlite_store, config)
    message = flagged(model=OTHER_MODEL)
    add(store, message)
    [claim] = store.reports.claim(owner="r", limit=1, lease_s=60)
    store.reports.complete(claim, lesson(message.id, correction="Another town.", correction_source="user"))
    force(
        store, "INSERT INTO originals VALUES (:id, :sealed, :at)", id=message.id, sealed=b"\x00\xff", at=str(OLD)[:19]
    )
    store.reviews.reject(message.id, actor="ann", reason="no")
    force(store, "DELETE FROM decisions")
    age(store, message.id)
    before = everything(store)
    assert moved(archiver) == 1
    archiver.restore_report(message.id, actor="op", reason="r")
    assert everything(store) == before


def test_the_folder_is_the_owners_alone(sqlite_store: Store, config: Config) -> None:
    given_up(sqlite_store)
    moved(Archiver(sqlite_store, config))
    paths: list[Path] = [config.archive_dir, *config.archive_dir.rglob("*")]
    assert {oct(path.stat().st_mode & 0o077) for path in paths} == {"0o0"}
