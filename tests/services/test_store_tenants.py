"""Tenants: reports of two are never one, and a daemon trains only on those that it is configured for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from daemon.config import Config
from daemon.records import ReportState
from daemon.store import Added, Reports, Store, open_store
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, learn, url_of


def of(store: Store, *tenants: str | None) -> Reports:
    """The reports of a store that may train on these tenants."""
    return Reports(store.engine, tenants=tenants)


def taught(store: Store) -> dict[str | None, str]:
    """A lesson of tenant a, one of tenant b, and one without a tenant."""
    return {one: learn(store, flagged(tenant=one))[0] for one in ("a", "b", None)}


def trainable(reports: Reports) -> set[str]:
    return {report.id for report, _ in reports.trainable(limit=10)}


@pytest.mark.parametrize(("tenants", "others"), [(("a",), 2), (("a", None), 1), ((None,), 2), (("c",), 3)])
def test_only_lessons_of_the_named_tenants_are_trained_on_and_counted(
    store: Store, tenants: tuple[str | None, ...], others: int
) -> None:
    ids = taught(store)
    reports = of(store, *tenants)
    assert trainable(reports) == {ids[one] for one in tenants if one in ids}
    assert reports.count_new_lessons() == 3 - others
    assert reports.count_of_other_tenants() == others


def test_without_a_scope_all_tenants_count(store: Store) -> None:
    ids = taught(store)
    assert trainable(store.reports) == set(ids.values())
    assert store.reports.count_of_other_tenants() == 0


def test_the_configuration_sets_the_scope(sqlite_store: Store, make_config: Callable[..., Config]) -> None:
    ids = taught(sqlite_store)
    config = make_config(store={"url": url_of(sqlite_store)}, dataset={"tenants": ["b"]})
    scoped = open_store(config)
    try:
        assert trainable(scoped.reports) == {ids["b"]}
    finally:
        scoped.close()
    with pytest.raises(ValueError, match="tenants"):
        make_config(dataset={"tenants": []})


def test_reports_of_two_tenants_about_one_answer_are_not_merged(store: Store) -> None:
    first = flagged(id="one", tenant="a", reporter="anna")
    second, third, fourth = (
        first.model_copy(update={"id": name, "tenant": tenant, "reporter": name})
        for name, tenant in (("two", "b"), ("three", "a"), ("four", None))
    )
    assert add(store, first, second, third, fourth) == [Added.STORED, Added.STORED, Added.DUPLICATE, Added.STORED]
    assert store.reports.get("three").duplicate_of == "one"
    assert [part.report_id for part in store.reports.get("one").others] == ["three"]
    assert store.reports.get("two").state is ReportState.QUEUED
