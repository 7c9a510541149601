"""The index of searches finds every part of every text, in any script, and holds nothing of an erased report."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import text

from daemon.report_filter import ReportFilter, Sort
from daemon.store import Store
from daemon.store.search_index import AT_ONCE
from tests.fixtures.config import flagged
from tests.fixtures.plans import plans
from tests.fixtures.stores import add, force, url_of

TEXTS = {
    "latin": 'The quick "brown" fox (NEAR a* OR b:c) doesn\'t sleep -- 100% sure_thing.',
    "cjk": "東京都の天気は晴れです。猫",
    "russian": "Столица Франции - Лион.",
    "thai": "เมืองหลวงของฝรั่งเศส",
    "emoji": "Well done 👩‍🔬!",
}


@pytest.fixture(params=["waiting", "indexed"])
def written(request: pytest.FixtureRequest, store: Store) -> Store:
    """Reports in several scripts, before and after the index has them."""
    for name, said in TEXTS.items():
        add(store, flagged(id=f"id-{name}-7", response=said, metadata={"ticket": {"jira": f"T-{len(said)}00"}}))
    if request.param == "indexed":
        assert store.search_index.fill() == len(TEXTS)
    return store


FOUND = [
    ("QUICK", "latin"),
    ("brow", "latin"),
    ('"brown"', "latin"),
    ("fox (NEAR a* OR b:c)", "latin"),
    ("doesn't", "latin"),
    ("100%", "latin"),
    ("sure_thing", "latin"),
    ("su_e", ""),
    ("-- 100", "latin"),
    ("x (", "latin"),
    ("天気", "cjk"),
    ("猫", "cjk"),
    ("です。", "cjk"),
    ("犬", ""),
    ("\ud7ff", ""),
    ("\U0010ffff", ""),
    ("Лион", "russian"),
    ("Фр", "russian"),
    ("หลวง", "thai"),
    ("👩‍🔬", "emoji"),
    ("zebra crossing", ""),
    ("quick brown", ""),
    ("id-cjk", "cjk"),
    ("k-7", "cjk"),
    ("jira", "all"),
    ("T-1700", ""),
    ("no\0ne", ""),
    ('"""', ""),
    ("'; DROP", ""),
]


def test_a_part_of_a_text_is_found_as_it_stands_and_nothing_else(written: Store) -> None:
    for search, found in FOUND:
        names = sorted(TEXTS) if found == "all" else [found] if found else []
        wanted = ReportFilter(search=search)
        assert sorted(report.id for report in written.reports.find(wanted)) == [f"id-{name}-7" for name in names], (
            search
        )
        assert written.reports.count(wanted) == len(names)
        assert sum(map(len, written.reports.batches(wanted))) == len(names)


def test_a_search_obeys_the_filters_and_orders(written: Store) -> None:
    found = written.reports.find(ReportFilter(search="id-", sort=Sort.OLDEST))
    assert [report.id for report in found] == [f"id-{name}-7" for name in TEXTS]
    assert written.reports.find(ReportFilter(search="id-", reporter="no-such")) == []


@pytest.mark.parametrize("block", [1, 2, 8_192])
def test_a_search_finds_the_newest_reports_that_fit(store: Store, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("daemon.store.search.MAX_FOUND", 3)
    monkeypatch.setattr("daemon.store.search_index.BLOCK", block)
    monkeypatch.setattr("daemon.store.search_index.BLOCKS", (1, 2))
    for number in range(5):
        add(store, flagged(id=f"r{number}", response=f"The same words, {number}.", tenant="a" if number < 2 else "b"))
    store.search_index.fill()
    wanted = ReportFilter(search="same words")
    assert [report.id for report in store.reports.find(wanted)] == ["r4", "r3", "r2"]
    assert store.reports.count(wanted) == 3
    assert [one.id for one in store.reports.find(ReportFilter(search="same words", tenant="a"))] == ["r1", "r0"]
    assert [one.id for one in store.reports.find(ReportFilter(search="same words", sort=Sort.OLDEST))] == [
        "r0",
        "r1",
        "r2",
    ]


@pytest.mark.parametrize("few", [1, 3, 1_000])
def test_common_parts_of_a_text_are_not_needed_to_find_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr("daemon.store.search_index.FEW", few)
    add(store, *(flagged(id=f"r{number}", response=f"The capital {number:03}.") for number in range(5)))
    add(store, flagged(id="both", response="The capital of zebras."), flagged(id="one", response="A zebra."))
    store.search_index.fill()
    found = {
        search: sorted(report.id for report in store.reports.find(ReportFilter(search=search)))
        for search in ("capital of zebras", "zebra", "capital 00", "capital x")
    }
    assert found["capital of zebras"] == ["both"]
    assert found["zebra"] == ["both", "one"]
    assert found["capital 00"] == ["r0", "r1", "r2", "r3", "r4"]
    assert found["capital x"] == []


def test_reports_that_the_index_took_in_without_their_block_are_found(store: Store) -> None:
    """As versions before blocks did, on PostgreSQL; SQLite's index has none."""
    add(store, *(flagged(id=f"r{number}", response="The same words.") for number in range(3)))
    store.search_index.fill()
    if store.engine.dialect.name == "postgresql":
        force(store, "UPDATE report_texts SET grams = array_remove(grams, 'block 0')")
    assert sorted(one.id for one in store.reports.find(ReportFilter(search="same words"))) == ["r0", "r1", "r2"]


def test_the_index_yields_its_newest_reports_first(sqlite_store: Store) -> None:
    add(sqlite_store, flagged(id="one", response="A zebra."))
    sqlite_store.search_index.fill()
    with plans(sqlite_store) as steps:
        sqlite_store.reports.count(ReportFilter(search="zebra"))
    assert not [step for step in steps if "TEMP B-TREE" in step], steps


def terms(store: Store) -> str:
    """Everything that the index and its tables hold."""
    if store.engine.dialect.name == "postgresql":
        query = "SELECT coalesce(string_agg(array_to_string(grams, ' '), ' '), '') FROM report_texts"
    else:
        query = "SELECT coalesce(group_concat(term, ' '), '') FROM report_index_terms"
    with store.engine.connect() as connection:
        return str(connection.execute(text(query)).scalar_one())


def test_the_index_holds_nothing_of_an_erased_report(store: Store, tmp_path) -> None:
    add(store, flagged(id="kept", response="An ordinary answer."), flagged(id="gone", response="ꙮꙮꙮ of 猫"))
    assert store.search_index.fill() == 2
    assert "ꙮꙮꙮ" in terms(store)
    store.reports.erase("gone", actor="op", reason="asked")
    assert "ꙮ" not in terms(store)
    store.search_index.fill()
    assert store.erasures.purge()
    assert "ꙮ" not in terms(store)
    assert not [path for path in tmp_path.rglob("*.sqlite3*") if "ꙮ".encode() in path.read_bytes()]
    assert [one.id for one in store.reports.find(ReportFilter(search="ordinary answer"))] == ["kept"]
    assert not store.reports.find(ReportFilter(search="ꙮꙮꙮ"))
    assert [one.id for one in store.reports.find(ReportFilter(search="gone"))] == ["gone"]


def test_a_deleted_report_leaves_the_index(store: Store) -> None:
    add(store, flagged(id="gone", response="ꙮꙮꙮ"), flagged(id="kept"))
    store.search_index.fill()
    force(store, "DELETE FROM reports WHERE id = 'gone'")
    assert "ꙮ" not in terms(store)
    assert store.search_index.fill() == 0
    assert [one.id for one in store.reports.find(ReportFilter(search="kept"))] == ["kept"]


def test_two_daemons_fill_the_index_together(store: Store, open_stores: Callable[[str], Store]) -> None:
    count = AT_ONCE + 20
    add(store, *(flagged(id=f"r{number}", response=f"Answer {number}.") for number in range(count)), reporter_cap=9_999)
    done: list[int] = []
    others = [open_stores(url_of(store)) for _ in range(2)]
    threads = [threading.Thread(target=lambda one=one: done.append(one.search_index.fill())) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done) + store.search_index.fill() == count
    assert store.reports.count(ReportFilter(search="answer 7")) == 11


def test_what_waits_for_the_index_is_found_after_an_upgrade(store: Store) -> None:
    add(store, flagged(id="old", response="Said before the upgrade."))
    force(store, "DELETE FROM report_texts")
    force(store, "INSERT INTO report_texts (report_id) SELECT id FROM reports")
    assert store.reports.count(ReportFilter(search="before the upgrade")) == 1
    assert store.search_index.fill(at_most=1) == 1
    assert store.reports.count(ReportFilter(search="before the upgrade")) == 1


def test_the_index_finds_the_reports_and_their_rows_are_found_by_their_keys(store: Store) -> None:
    add(store, flagged(id="one", response="東京 is no zebra crossing."))
    store.search_index.fill()
    index = "VIRTUAL TABLE INDEX" if store.engine.dialect.name == "sqlite" else "ix_report_texts_grams"
    for search in ("zebra crossing", "東京"):
        with plans(store, without=("seqscan", "indexscan")) as steps:
            store.reports.find(ReportFilter(search=search, category="wrong-fact", principal="test"))
            store.reports.count(ReportFilter(search=search))
        assert any(index in step for step in steps), steps
        assert not [step for step in steps if "SCAN reports" in step or "Seq Scan on reports" in step], steps
