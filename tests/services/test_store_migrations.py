"""Migrations: their result equals `schema.py`, on both databases, even if two daemons start together."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import IntegrityError

from daemon.errors import StoreVersionError
from daemon.records import utcnow
from daemon.store import schema
from daemon.store.engine import connect
from daemon.store.migrate import migrate
from daemon.store.revision import MIGRATIONS
from daemon.transitions import ADAPTER_TRANSITIONS, INITIAL_STATES, REPORT_TRANSITIONS, RUN_TRANSITIONS

POSTGRES_CATALOGUE = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
    UNION ALL
    SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    UNION ALL
    SELECT table_name, column_name, concat_ws(' ', data_type, character_maximum_length, is_nullable, column_default)
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'"""
SQLITE_CATALOGUE = """
    SELECT tbl_name, name, sql FROM sqlite_master
    WHERE type IN ('table', 'index') AND sql IS NOT NULL AND tbl_name <> 'alembic_version'
        AND tbl_name NOT LIKE 'report_index%'"""


def catalogue(engine: Engine) -> set[tuple[str, ...]]:
    """Every table, column, constraint and index, as the database itself tells them."""
    query = POSTGRES_CATALOGUE if engine.dialect.name == "postgresql" else SQLITE_CATALOGUE
    with engine.connect() as connection:
        found = {tuple(map(_normalised, row)) for row in connection.execute(text(query))}
    engine.dispose()
    return found


def _normalised(definition: str) -> str:
    """SQLite keeps the text of CREATE TABLE: the order of columns and constraints in it does not matter."""
    return " ".join(sorted(definition.replace(",", " , ").replace("(", " ( ").replace(")", " ) ").split()))


def is_table_of_the_metadata(name: str | None, kind: str, _parents: object) -> bool:
    """SQLite's index of searches is a virtual table, with tables of its own behind it."""
    return not (kind == "table" and str(name).startswith("report_index"))


def test_autogenerate_finds_no_difference_between_migrations_and_metadata(database_url: str) -> None:
    engine = connect(database_url)
    migrate(engine)
    with engine.connect() as connection, warnings.catch_warnings():
        # SQLite's index on an expression cannot be reflected; the comparison of catalogues sees it
        warnings.filterwarnings("ignore", message=".*expression-based index.*")
        options = {"compare_type": True, "compare_server_default": True, "include_name": is_table_of_the_metadata}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_migrations_build_every_constraint_of_the_metadata(new_database: Callable[[str], str]) -> None:
    migrated, created = connect(new_database("template1")), connect(new_database("template1"))
    migrate(migrated)
    schema.metadata.create_all(created)
    assert catalogue(migrated) == catalogue(created)


def test_the_transitions_table_mirrors_the_records(database_url: str) -> None:
    engine = connect(database_url)
    migrate(engine)
    with engine.connect() as connection:
        stored = {(row.machine, row.old, row.new) for row in connection.execute(select(schema.transitions))}
    engine.dispose()
    machines = {"reports": REPORT_TRANSITIONS, "adapters": ADAPTER_TRANSITIONS, "runs": RUN_TRANSITIONS}
    legal = {
        (machine, old.value, new.value)
        for machine, transitions in machines.items()
        for old, news in transitions.items()
        for new in news
    }
    first = {(machine, "", state.value) for machine, states in INITIAL_STATES.items() for state in states}
    assert stored == legal | first


def test_migrating_again_changes_nothing(database_url: str) -> None:
    engine = connect(database_url)
    migrate(engine)
    before = catalogue(engine)
    migrate(engine)
    assert catalogue(engine) == before


def test_intents_survive_the_revision_that_allows_a_new_kind(database_url: str) -> None:
    engine, config = connect(database_url), Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    now = utcnow()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0007")
        connection.execute(
            text(
                "INSERT INTO intents (kind, state, actor, reason, created_at) VALUES ('train', 'done', 'op', 'x', :now)"
            ),
            {"now": now},
        )
    migrate(engine)
    with engine.connect() as connection:
        kept = connection.execute(select(schema.intents)).one()
    engine.dispose()
    assert (kept.kind, kept.state, kept.actor, kept.created_at) == ("train", "done", "op", now)


def test_reports_and_answers_survive_the_revision_that_allows_new_states(database_url: str) -> None:
    engine, config = connect(database_url), Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    now = utcnow()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0025")
        for statement in (
            (
                "INSERT INTO reports (id, state, fingerprint, content_key, category, reporter, model, flagged, "
                "channel, received_at, updated_at) "
                "VALUES ('r', 'queued', 'f', 'k', 'x', 'bob', 'm', '{}', 'test', :now, :now)"
            ),
            (
                "INSERT INTO runs (id, state, trigger, requested_by, generation, base_generation, recipe, seed, "
                "folder, progress, created_at, updated_at) "
                "VALUES (1, 'preparing', 'manual', 'op', 1, 0, 'sft', 1, '/', '{}', :now, :now)"
            ),
            (
                "INSERT INTO answers (run_id, suite, item_id, arm, guided, text) "
                "VALUES (1, 'flagged', 'r', 'a', :yes, 'said')"
            ),
        ):
            values = {"yes": True} if ":yes" in statement else {"now": now}
            connection.execute(text(statement), values)
    migrate(engine)
    reports = schema.reports
    with engine.begin() as connection:
        answer = connection.execute(select(schema.answers)).one()
        for state in ("reflecting", "lesson", "not-reproduced", "lesson", "improved"):
            connection.execute(reports.update().values(state=state, lease_until=now))
        with pytest.raises(IntegrityError), connection.begin_nested():
            connection.execute(reports.update().values(state="nonsense"))
        assert connection.execute(select(reports.c.state)).scalar_one() == "improved"
        if engine.dialect.name == "sqlite":
            assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
    engine.dispose()
    assert (answer.text, answer.sample, answer.guided) == ("said", 0, True)


def test_reports_of_before_have_the_severity_of_their_message(database_url: str) -> None:
    engine, config = connect(database_url), Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    said = {"a": '{"severity": "high"}', "b": '{"severity": "low"}', "c": '{"severity": "medium"}', "d": "{}"}
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0028")
        for report_id, flagged in said.items():
            statement = (
                "INSERT INTO reports (id, state, fingerprint, content_key, category, reporter, model, flagged, "
                "channel, principal, sent_id, received_at, updated_at) "
                "VALUES (:id, 'queued', 'f', 'k', 'x', 'bob', 'm', :flagged, 'test', 'p', :id, :now, :now)"
            )
            connection.execute(text(statement), {"id": report_id, "flagged": flagged, "now": utcnow()})
    migrate(engine)
    reports = schema.reports
    with engine.connect() as connection:
        found = connection.execute(select(reports.c.severity).order_by(reports.c.id)).scalars().all()
    engine.dispose()
    assert found == ["high", "low", "medium", "medium"]


def test_daemons_that_start_at_once_migrate_once(database_url: str) -> None:
    engines = [connect(database_url) for _ in range(4)]
    barrier = threading.Barrier(len(engines))
    failures: list[Exception] = []

    def start(engine: Engine) -> None:
        barrier.wait()
        try:
            migrate(engine)
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=start, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine in engines:
        engine.dispose()
    assert failures == []


def test_a_database_of_a_newer_version_is_refused(database_url: str) -> None:
    engine = connect(database_url)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreVersionError, match=r"revision 9999.*newer"):
        migrate(engine)
    engine.dispose()


def test_another_programs_database_is_refused(database_url: str) -> None:
    engine = connect(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE reports (id INTEGER)"))
    with pytest.raises(StoreVersionError, match="database of its own"):
        migrate(engine)
    engine.dispose()
