"""Clusters: their members, and the side of each cluster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from daemon.dataset.clusters import assign, next_split
from daemon.records import Cluster, Report, ReportState, Split
from daemon.store import Store
from daemon.text.similarity import Vectorizer, Words, features, resembling
from tests.fixtures.config import flagged
from tests.fixtures.training import SUBJECTS, mistake, teach


def _reports(store: Store) -> list[Report]:
    return store.reports.find(state=ReportState.LESSON, limit=500)


def _assign(
    store: Store, *, vectorizer: Vectorizer | None = None, similarity: float = 0.8, holdout_fraction: float = 0.25
) -> dict[str, Cluster]:
    return assign(
        store.clusters,
        _reports(store),
        vectorizer=vectorizer or Words(),
        similarity=similarity,
        holdout_fraction=holdout_fraction,
    )


def _ask(text: str, category: str = "wrong-fact") -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], "category": category}


def _similarity(one: str, other: str) -> float:
    rows = Words().vectors([one, other])
    return float((rows[0] @ rows[1].T).toarray()[0, 0])


def test_prompts_are_compared_by_their_content_words() -> None:
    assert features("What is the capital of France?") == ["capital", "france"]
    assert features("What is it?") == ["what", "is", "it"]
    assert features("?!") == ["?!"]


def test_another_wording_of_the_same_content_words_is_the_same() -> None:
    assert _similarity("What is the capital of France?", "Is it France, that capital?") == pytest.approx(1.0)


def test_two_facts_asked_for_in_the_same_words_are_not_near_duplicates() -> None:
    assert _similarity("What is the capital of France?", "What is the capital of Spain?") < 0.6
    assert _similarity("What is the capital of France?", "Tell us: what's the capital of France") >= 0.6


@pytest.mark.parametrize("text", ["フランスの首都はどこですか", "法国的首都是哪里", "프랑스의수도는어디입니까"])
def test_scripts_without_spaces_are_compared_by_parts(text: str) -> None:
    assert len(features(text)) == len(text) - 1
    assert 0.5 < _similarity(text, text[:-1]) < 1


def test_near_duplicates_join_one_cluster_within_their_category(sqlite_store: Store) -> None:
    teach(
        sqlite_store,
        flagged(id="first", **_ask("Describe volcanoes in Iceland")),
        flagged(id="again", **_ask("describe the volcanoes in ICELAND!", "wrong-fact")),
        flagged(id="elsewhere", **_ask("Describe volcanoes in Iceland", "format")),
    )

    assigned = _assign(sqlite_store)

    assert assigned["first"] == assigned["again"]
    assert assigned["elsewhere"].id != assigned["first"].id
    assert {report.id: report.cluster_id for report in _reports(sqlite_store)} == {
        report_id: cluster.id for report_id, cluster in assigned.items()
    }


def test_a_report_joins_the_nearest_of_several_clusters_whichever_side_it_is_on(sqlite_store: Store) -> None:
    teach(
        sqlite_store,
        flagged(id="near", **_ask("red green blue yellow")),
        flagged(id="nearer", **_ask("red green blue black")),
        flagged(id="new", **_ask("red green blue black yellow")),
        flagged(id="newer", **_ask("red green blue black white")),
    )
    sqlite_store.clusters.open(
        report_id="near", category="wrong-fact", leader_text="red green blue yellow", split=Split.TRAIN
    )
    held = sqlite_store.clusters.open(
        report_id="nearer", category="wrong-fact", leader_text="red green blue black", split=Split.HOLDOUT
    )

    assert _assign(sqlite_store, similarity=0.7)["newer"] == held


class Initials:
    """A vectorizer: texts with the same first letter are similar."""

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([np.eye(128, dtype=np.float32)[ord(text[0])] for text in texts])

    def forget_unused(self) -> None:
        """Nothing to do: there is no cache."""


def test_another_way_of_comparing_places_new_reports_among_the_same_clusters(sqlite_store: Store) -> None:
    teach(
        sqlite_store,
        flagged(id="iceland", **_ask("Describe volcanoes in Iceland")),
        flagged(id="spain", **_ask("Describe orchards in Spain")),
    )
    by_words = _assign(sqlite_store)
    known = sqlite_store.clusters.all()
    assert len(known) == 2
    teach(
        sqlite_store,
        flagged(id="same-initial", **_ask("Do birds sing?")),
        flagged(id="iceland-again", **_ask("volcanoes in Iceland: describe them")),
    )

    by_initials = _assign(sqlite_store, vectorizer=Initials())

    assert {report_id: by_initials[report_id] for report_id in by_words} == by_words
    assert by_initials["same-initial"] in known
    assert by_initials["iceland-again"] not in known


def test_leaders_of_other_categories_are_not_even_looked_at(sqlite_store: Store) -> None:
    teach(sqlite_store, flagged(id="elsewhere", **_ask("Describe volcanoes", "format")))
    _assign(sqlite_store)
    teach(sqlite_store, flagged(id="here", **_ask("Do birds sing?")))
    asked: list[str] = []

    class Watched(Initials):
        def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
            asked.extend(texts)
            return super().vectors(texts)

    _assign(sqlite_store, vectorizer=Watched())
    _assign(sqlite_store, vectorizer=Watched())

    assert asked == ["Do birds sing?"]


def test_assigning_again_changes_nothing(sqlite_store: Store) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS))

    once = _assign(sqlite_store)
    known = sqlite_store.clusters.all()

    assert _assign(sqlite_store) == once
    assert sqlite_store.clusters.all() == known


def test_an_interrupted_assignment_goes_on_as_if_it_had_not_been(sqlite_store: Store) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:10]))
    oldest = sorted(_reports(sqlite_store), key=lambda report: report.received_at)
    for part in (oldest[:4], oldest):
        assigned = assign(sqlite_store.clusters, part, vectorizer=Words(), similarity=0.8, holdout_fraction=0.25)

    splits = [assigned[report.id].split for report in oldest]
    expected: list[Split] = []
    for _ in oldest:
        expected.append(next_split(expected, 0.25))
    assert splits == expected
    assert Split.HOLDOUT in splits


def test_every_category_is_split_on_its_own(sqlite_store: Store) -> None:
    for category in ("wrong-fact", "format"):
        answer = f"A bad answer ({category})"
        teach(sqlite_store, *(flagged(**_ask(subject, category), response=answer) for subject in SUBJECTS[:8]))

    clusters = _assign(sqlite_store, holdout_fraction=0.25).values()

    for category in ("wrong-fact", "format"):
        held = [cluster for cluster in clusters if (cluster.category, cluster.split) == (category, Split.HOLDOUT)]
        assert len(held) == 2


@given(fraction=st.floats(min_value=0, max_value=0.95), clusters=st.integers(min_value=2, max_value=60))
def test_the_held_out_share_stays_within_half_a_cluster_of_the_wish(fraction: float, clusters: int) -> None:
    splits: list[Split] = []
    for _ in range(clusters):
        splits.append(next_split(splits, fraction))

    held = splits.count(Split.HOLDOUT)
    assert splits[0] is Split.TRAIN
    assert held <= fraction * clusters + 0.5
    assert held >= min(fraction * clusters, clusters - 1) - 1


def test_without_a_holdout_fraction_nothing_is_held_out() -> None:
    splits: list[Split] = []
    for _ in range(20):
        splits.append(next_split(splits, 0.0))
    assert set(splits) == {Split.TRAIN}


def test_training_prompts_near_a_held_out_one_are_found() -> None:
    train = ["Describe volcanoes in Iceland!", "Describe orchards in Spain"]
    held = ["Describe glaciers in Norway", "describe the volcanoes in Iceland"]

    assert resembling(train, held, vectorizer=Words(), similarity=0.8) == [True, False]
    assert resembling(train, [], vectorizer=Words(), similarity=0.8) == [False, False]
