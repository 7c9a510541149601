"""The words of leaders, and kept counts of clusters, on both databases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import select

from daemon.records import Split
from daemon.store import Store, schema
from daemon.store.leader_words import AT_ONCE, leader_words
from tests.fixtures.config import flagged
from tests.fixtures.plans import plans
from tests.fixtures.stores import add


def words_of(texts: Sequence[str]) -> list[set[int]]:
    return [{len(word) for word in text.split()} for text in texts]


def opened(store: Store, *texts: str, category: str = "style", split: Split = Split.TRAIN) -> list[int]:
    messages = [flagged() for _ in texts]
    add(store, *messages, reporter_cap=9_999)
    with store.clusters.placing() as placing:
        return [
            placing.open(report_id=message.id, category=category, leader_text=text, split=split).id
            for message, text in zip(messages, texts, strict=True)
        ]


def kept(store: Store) -> set[tuple[int, int]]:
    with store.engine.connect() as connection:
        return {(row.cluster_id, row.word) for row in connection.execute(select(leader_words))}


def test_leaders_are_found_by_any_of_their_words(store: Store) -> None:
    first, second, third = opened(store, "a bb", "bb ccc", "dddd")
    store.clusters.take_in_words(words_of, version=1)
    assert [one.id for one in store.clusters.with_words([1, 3])] == [first, second]
    assert [one.id for one in store.clusters.with_words([4])] == [third]
    assert store.clusters.with_words([9]) == []
    assert store.clusters.spread([1, 2, 9]) == {1: 1, 2: 2, 9: 0}


def test_each_leader_is_taken_in_once_and_again_for_another_version(store: Store) -> None:
    ids = opened(store, *["a"] * (AT_ONCE + 3))
    for version, words in ((1, [{1}]), (1, [{2}]), (2, [{2, 3}])):
        store.clusters.take_in_words(lambda texts, words=words: words * len(texts), version=version)
    assert kept(store) == {(one, word) for one in ids for word in (2, 3)}


def test_an_erased_leader_leaves_no_word(store: Store) -> None:
    [gone, stays] = opened(store, "secret", "ab")
    store.clusters.take_in_words(words_of, version=1)
    with store.engine.connect() as connection:
        leader = connection.execute(
            select(schema.clusters.c.leader_id).where(schema.clusters.c.id == gone)
        ).scalar_one()
    store.reports.erase(leader, actor="op", reason="asked")
    assert kept(store) == {(stays, 2)}
    store.clusters.take_in_words(words_of, version=1)
    assert kept(store) == {(stays, 2), (gone, len("[erased]"))}


def test_the_sides_are_counted(store: Store) -> None:
    opened(store, "a", "b", category="style")
    opened(store, "c", category="style", split=Split.HOLDOUT)
    opened(store, "d", category="format", split=Split.HOLDOUT)
    assert store.clusters.sides() == {
        "style": Counter({Split.TRAIN: 2, Split.HOLDOUT: 1}),
        "format": Counter({Split.HOLDOUT: 1}),
    }


def test_words_and_leaders_are_found_by_indexes(store: Store) -> None:
    opened(store, "a bb")
    with plans(store) as steps:
        store.clusters.take_in_words(words_of, version=1)
        store.clusters.spread([1])
        store.clusters.with_words([1])
    whole = ("SCAN clusters", "SCAN leader_words", "Seq Scan on clusters", "Seq Scan on leader_words")
    assert steps
    assert not [step for step in steps if any(one in step for one in whole)], steps
