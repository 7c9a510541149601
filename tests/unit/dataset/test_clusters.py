"""Clusters: their members, and the side of each cluster."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from connectors.messages import FlaggedResponse
from daemon.dataset.clusters import assign
from daemon.dataset.split import next_split
from daemon.records import Cluster, Report, ReportState, Split
from daemon.report_filter import ReportFilter
from daemon.store import Store
from daemon.text.similarity import WORDS_VERSION, Vectorizer, Words, features, resembling
from tests.fixtures.config import flagged
from tests.fixtures.stores import add
from tests.fixtures.training import SUBJECTS, mistake, teach

KEY = b"tests"


def _reports(store: Store) -> list[Report]:
    return store.reports.find(ReportFilter(state=ReportState.LESSON), limit=500)


def _assign(
    store: Store, *, vectorizer: Vectorizer | None = None, similarity: float = 0.8, holdout_fraction: float = 0.25
) -> dict[str, Cluster]:
    return assign(
        store.clusters,
        _reports(store),
        vectorizer=vectorizer or Words(),
        similarity=similarity,
        holdout_fraction=holdout_fraction,
        key=KEY,
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


def test_a_category_that_is_not_known_is_one_kind_with_all_others_of_this_sort(sqlite_store: Store) -> None:
    teach(
        sqlite_store,
        flagged(id="one", **_ask("Describe volcanoes in Iceland", "mine-1")),
        flagged(id="two", **_ask("Describe the volcanoes in Iceland!", "mine-2")),
        flagged(id="alias", **_ask("Describe orchards in Spain", "hallucination")),
        flagged(id="kind", **_ask("Describe the orchards in Spain!", "wrong_fact")),
    )

    assigned = _assign(sqlite_store)

    assert assigned["one"] == assigned["two"]
    assert assigned["alias"] == assigned["kind"]
    assert {cluster.category for cluster in assigned.values()} == {"default", "wrong-fact"}
    assert sqlite_store.reports.get("one").flagged.category == "mine-1"


def test_clusters_of_earlier_versions_keep_their_category_and_take_reports_of_its_kind(sqlite_store: Store) -> None:
    teach(sqlite_store, flagged(id="old", **_ask("red green blue", "factuality")))
    old = sqlite_store.clusters.open(
        report_id="old", category="factuality", leader_text="red green blue", split=Split.HOLDOUT
    )
    teach(sqlite_store, flagged(id="new", **_ask("red blue green")))

    assert _assign(sqlite_store)["new"] == old


@pytest.mark.parametrize("side", Split)
def test_a_question_is_on_one_side_in_all_categories(sqlite_store: Store, side: Split) -> None:
    teach(sqlite_store, flagged(id="first", **_ask("Describe volcanoes in Iceland")))
    sqlite_store.clusters.open(
        report_id="first", category="wrong-fact", leader_text="Describe volcanoes in Iceland", split=side
    )
    kinds = ("format", "style", "harmful", "refusal", "something-else")
    teach(sqlite_store, *(flagged(id=kind, **_ask("Describe the volcanoes in Iceland!", kind)) for kind in kinds))

    assigned = _assign(sqlite_store)

    assert {assigned[kind].split for kind in kinds} == {side}
    assert len({assigned[kind].id for kind in kinds}) == len(kinds)


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
        assigned = assign(
            sqlite_store.clusters, part, vectorizer=Words(), similarity=0.8, holdout_fraction=0.25, key=KEY
        )

    splits = [assigned[report.id].split for report in oldest]
    expected: list[Split] = []
    for report in oldest:
        expected.append(next_split(Counter(expected), 0.25, key=KEY, leader_text=report.prompt_text))
    assert splits == expected
    assert Split.HOLDOUT in splits


def test_every_kind_is_split_on_its_own(sqlite_store: Store) -> None:
    for category, subjects in (("wrong-fact", SUBJECTS[:8]), ("format", SUBJECTS[8:16])):
        teach(sqlite_store, *(flagged(**_ask(subject, category), response="A bad answer") for subject in subjects))

    clusters = _assign(sqlite_store, holdout_fraction=0.25).values()

    for category in ("wrong-fact", "format"):
        held = [cluster for cluster in clusters if (cluster.category, cluster.split) == (category, Split.HOLDOUT)]
        assert 1 <= len(held) <= 3


class EveryLeader:
    """Compares by words, and with every leader."""

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float64]:
        rows = Words().vectors(texts)
        return np.asarray(rows[:, np.unique(rows.indices)].toarray())

    def forget_unused(self) -> None:
        """Nothing to do: there is no cache."""


def _corpus(seed: int) -> list[FlaggedResponse]:
    """Texts of few and of many words, some common and most rare; many repeat most of an earlier text."""
    draw = random.Random(seed)
    texts: list[list[str]] = []
    for _ in range(60):
        words = [f"word{int(draw.paretovariate(0.6))}" for _ in range(draw.randint(1, 9))]
        if texts and draw.random() < 0.6:
            known = draw.choice(texts)
            words = [*draw.sample(known, max(1, len(known) - draw.randint(0, 2))), *words[: draw.randint(0, 2)]]
        texts.append(words)
    kinds = ("wrong-fact", "format", "style")
    return [flagged(id=f"r{n}", **_ask(" ".join(words), draw.choice(kinds))) for n, words in enumerate(texts)]


@pytest.mark.parametrize("seed", range(8))
def test_looking_for_leaders_by_their_words_places_every_report_as_a_comparison_with_all_leaders_would(
    sqlite_store: Store, open_stores: Callable[[str], Store], tmp_path: Path, seed: int
) -> None:
    other = open_stores(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    similarity = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0)[seed % 6]
    placed = []
    for store, vectorizer in ((sqlite_store, Words()), (other, EveryLeader())):
        add(store, *_corpus(seed), reporter_cap=99)
        found: dict[str, tuple[str, str, Split]] = {}
        for some in (slice(40), slice(40, 50), slice(99)):
            reports = store.reports.find(limit=99)[some]
            assigned = assign(
                store.clusters, reports, vectorizer=vectorizer, similarity=similarity, holdout_fraction=0.3, key=KEY
            )
            found |= {one: (cluster.leader_text, cluster.category, cluster.split) for one, cluster in assigned.items()}
        placed.append(found)
    assert placed[0] == placed[1]
    assert 5 < len(set(placed[0].values())) < 60


def test_only_leaders_that_share_a_telling_word_are_read(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    teach(sqlite_store, *(flagged(**_ask(f"What is the capital of land{number}?")) for number in range(30)))
    _assign(sqlite_store)
    teach(sqlite_store, flagged(id="new", **_ask("The capital of land7?")))
    read: list[Cluster] = []
    with_words = sqlite_store.clusters.with_words
    monkeypatch.setattr(
        type(sqlite_store.clusters), "with_words", lambda _, words: [read.append(c) or c for c in with_words(words)]
    )
    assert _assign(sqlite_store)["new"].leader_text == "What is the capital of land7?"
    assert [cluster.leader_text for cluster in read] == ["What is the capital of land7?"]


def test_the_numbers_of_words_are_those_of_their_version() -> None:
    row = Words().vectors(["What is the capital of France?"])
    assert (WORDS_VERSION, sorted(row.indices.tolist())) == (1, [56167, 180247])


def test_training_prompts_near_a_held_out_one_are_found() -> None:
    train = ["Describe volcanoes in Iceland!", "Describe orchards in Spain"]
    held = ["Describe glaciers in Norway", "describe the volcanoes in Iceland"]

    assert resembling(train, held, vectorizer=Words(), similarity=0.8) == [True, False]
    assert resembling(train, [], vectorizer=Words(), similarity=0.8) == [False, False]
