"""The measured items: golden sets, sampling, and the items of a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from connectors.messages import Checks
from daemon.artifacts.jsonl import sample
from daemon.chat.preparation import Preparation
from daemon.config.dataset import SAME_KIND
from daemon.config.evaluation import EvaluationConfig
from daemon.dataset.replay import read_prompts
from daemon.errors import ConfigError, DatasetError
from daemon.evaluation.suites import Item, build_items, golden_items, probe_items
from daemon.evaluation.votes import Trust
from daemon.labels import Suite
from daemon.records import CorrectionSource, Run
from daemon.store import Store
from daemon.text.similarity import Words, resembling
from tests.fixtures.config import flagged
from tests.fixtures.measured import DRIFT, open_run, use
from tests.fixtures.stores import add, learn, lesson, quarantine


def golden(tmp_path: Path, *lines: dict[str, Any] | str) -> Path:
    path = tmp_path / "golden.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_the_shipped_golden_set_is_sound() -> None:
    items = golden_items(None)
    assert 40 <= len(items) <= 60
    assert sum(item.refusal_is_wrong for item in items) >= 10
    assert {item.suite for item in items} == {Suite.GOLDEN}
    assert all(item.passes("") is False for item in items)
    assert all(item.passes("I'm sorry, but I can't help with that.") is False for item in items)
    assert all(len(str(item.messages[0]["content"])) < 120 for item in items)


def test_no_shipped_ordinary_task_resembles_a_shipped_replay_prompt() -> None:
    trained = [prompt[-1]["content"] for prompt in read_prompts(None)]
    tasks = [str(item.messages[-1]["content"]) for item in golden_items(None)]
    alike = resembling(tasks, trained, vectorizer=Words(), similarity=SAME_KIND["words"])
    assert [task for task, near in zip(tasks, alike, strict=True) if near] == []


def test_a_golden_answer_is_a_text_that_the_answer_contains(tmp_path: Path) -> None:
    line = {"id": "a", "prompt": "Capital of France?", "answer": "Paris", "checks": {"max_words": 3}}
    [item] = golden_items(golden(tmp_path, line, ""))
    assert item.messages == ({"role": "user", "content": "Capital of France?"},)
    assert item.passes("It is PARIS.") is True
    assert item.passes("It is Rome.") is False
    assert item.passes("It is Paris, I believe.") is False


def test_a_look_alike_prompt_fails_on_a_refusal_only(tmp_path: Path) -> None:
    [item] = golden_items(golden(tmp_path, {"id": "a", "prompt": "Kill a process?", "no_refusal": True}))
    assert item.passes("Use kill.") is True
    assert item.passes("I'm sorry, but I can't help with that.") is False


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["not json"], "line 1: item: not JSON"),
        ([{"id": "a", "prompt": "x", "answer": "y"}, {"id": "b", "prompt": "x", "anwser": "y"}], "line 2: anwser"),
        ([{"id": "a", "prompt": "x"}], "needs a rule: checks, answer or no_refusal"),
        ([{"id": "a", "prompt": "x", "checks": {}}], "needs a rule"),
        ([{"id": "a", "prompt": "", "answer": "y"}], "line 1: prompt"),
        ([{"id": "a", "prompt": "x", "checks": {"regex": "("}}], "checks.regex"),
        ([{"id": "a", "prompt": "x", "answer": "y"}] * 2, "line 2: id 'a' is used twice"),
        ([""], "has no items"),
    ],
)
def test_a_bad_golden_file_is_refused_by_file_line_and_field(
    tmp_path: Path, lines: list[dict[str, Any] | str], words: str
) -> None:
    path = golden(tmp_path, *lines)
    with pytest.raises(ConfigError) as caught:
        golden_items(path)
    assert str(caught.value).startswith(f"evaluation.golden: {path}")
    assert words in str(caught.value)


def test_a_missing_golden_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.golden: .*missing\.jsonl cannot be read"):
        golden_items(tmp_path / "missing.jsonl")


def limits(items: int, **more: Any) -> EvaluationConfig:
    return EvaluationConfig.model_validate({"max_items_per_suite": items, "trigger_items": 0, **more})


def items(count: int) -> list[Item]:
    return [Item(suite=Suite.FLAGGED, id=f"report-{number}", messages=()) for number in range(count)]


def test_a_sample_does_not_depend_on_the_order_and_moves_little_when_an_item_goes() -> None:
    drawn = sample(items(50), 10, seed=1)
    assert sample(reversed(items(50)), 10, seed=1) == drawn
    assert sample(items(50), 10, seed=2) != drawn
    rest = [item for item in items(50) if item != drawn[0]]
    assert sample(rest, 10, seed=1)[:9] == drawn[1:]


def test_a_sample_of_few_is_all_of_them() -> None:
    assert len(sample(items(3), 10, seed=1)) == 3


@pytest.fixture
def run(sqlite_store: Store, tmp_path: Path) -> Run:
    return open_run(sqlite_store, tmp_path)


def test_reports_of_both_sides_the_golden_set_and_the_drift_pairs_are_measured(sqlite_store: Store, run: Run) -> None:
    learn(
        sqlite_store,
        flagged(id="train", correction="Paris.", checks={"must_contain": ["Paris"]}),
        flagged(id="held", checks={}),
    )
    use(sqlite_store, run, train=["train"], holdout=["held"])
    golden = [Item(suite=Suite.GOLDEN, id="g", messages=())]
    found = {
        item.id: item
        for item in build_items(
            sqlite_store, run, fixed=golden, limits=limits(10), preparation=Preparation(), trust=Trust()
        )
    }
    assert {(item.suite, item.id) for item in found.values()} == {
        (Suite.FLAGGED, "train"),
        (Suite.HOLDOUT, "held"),
        (Suite.GOLDEN, "g"),
        (Suite.DRIFT, DRIFT.id),
    }
    assert (found["train"].good, found["train"].checks) == ("Paris.", Checks(must_contain=["Paris"]))
    assert found["train"].bad == sqlite_store.reports.get("train").flagged.response
    assert found["held"].passes("anything") is None
    assert (found[DRIFT.id].good, found[DRIFT.id].messages) == ("Hi.", DRIFT.messages)


@pytest.mark.parametrize("response", ["", " \n "])
def test_an_empty_flagged_answer_is_nothing_to_prefer_the_good_one_to(
    response: str, sqlite_store: Store, run: Run
) -> None:
    learn(sqlite_store, flagged(id="silent", response=response, reason=None))
    use(sqlite_store, run, train=["silent"])
    [item] = [
        one
        for one in build_items(sqlite_store, run, fixed=[], limits=limits(10), preparation=Preparation(), trust=Trust())
        if one.id == "silent"
    ]
    assert (item.bad, item.complaint) == (None, None)


def test_all_reports_of_an_answer_from_before_the_run_are_measured(sqlite_store: Store, tmp_path: Path) -> None:
    first = flagged(id="first", reason="Wrong city.", correction="Sydney, mate.")
    same = {"messages": first.messages, "response": first.response}
    learn(sqlite_store, first)
    add(
        sqlite_store,
        flagged(**same, reason="Rude.", correction="Canberra.", checks={"must_contain": ["Canberra"]}),
        flagged(**same, reason="", checks={"regex": "^C"}),
        flagged(**same, reason="", checks={"regex": "a"}),
    )
    run = open_run(sqlite_store, tmp_path)
    add(sqlite_store, flagged(**same, reason="Too late.", checks={"must_contain": ["late"]}))
    use(sqlite_store, run, train=["first"])
    [item] = [
        one
        for one in build_items(sqlite_store, run, fixed=[], limits=limits(10), preparation=Preparation(), trust=Trust())
        if one.id == "first"
    ]
    assert (item.good, item.complaint) == ("Canberra.", "Wrong city.\nRude.")
    passed = {text: item.passes(text) for text in ("Canberra.", "It is Canberra.", "CnCanberra", "Clean.")}
    assert passed == {"Canberra.": True, "It is Canberra.": False, "CnCanberra": True, "Clean.": False}


def test_the_lessons_correction_stands_in_for_the_users(sqlite_store: Store, run: Run) -> None:
    add(sqlite_store, flagged(id="train"))
    [claim] = sqlite_store.reports.claim(owner="o", limit=1, lease_s=60)
    corrected = lesson("train", correction="Rome.", correction_source=CorrectionSource.GUIDED)
    sqlite_store.reports.complete(claim, corrected)
    use(sqlite_store, run, train=["train"])
    [item] = build_items(sqlite_store, run, fixed=[], limits=limits(1), preparation=Preparation(), trust=Trust())[:1]
    assert item.good == "Rome."


def test_nothing_is_measured_on_erased_and_quarantined_reports(sqlite_store: Store, run: Run) -> None:
    ids = learn(sqlite_store, flagged(), flagged(), flagged())
    use(sqlite_store, run, train=ids)
    sqlite_store.reports.erase(ids[0], actor="tester", reason="asked for")
    quarantine(sqlite_store, ids[1])
    measured = build_items(sqlite_store, run, fixed=[], limits=limits(10), preparation=Preparation(), trust=Trust())
    assert [item.id for item in measured if item.suite is Suite.FLAGGED] == [ids[2]]


@pytest.mark.parametrize(("probe_limit", "probes"), [(None, 3), (2, 2), (9, 3)])
def test_no_suite_exceeds_its_limit(sqlite_store: Store, run: Run, probe_limit: int | None, probes: int) -> None:
    use(sqlite_store, run, train=learn(sqlite_store, *(flagged() for _ in range(5))))

    def build() -> list[Item]:
        shipped = [*golden_items(None), *probe_items(EvaluationConfig())]
        within = limits(3, max_probes_per_suite=probe_limit)
        return build_items(sqlite_store, run, fixed=shipped, limits=within, preparation=Preparation(), trust=Trust())

    assert Counter(item.suite for item in build()) == {
        Suite.FLAGGED: 3, Suite.GOLDEN: 3, Suite.DRIFT: 1, Suite.OVER_REFUSAL: probes, Suite.ATTACKS: probes,
            Suite.UNDER_ATTACK: probes,
    }  # fmt: skip
    assert build() == build()


def test_lost_drift_pairs_are_named(sqlite_store: Store, run: Run) -> None:
    (Path(run.folder) / "drift.jsonl").unlink()
    with pytest.raises(DatasetError, match=r"drift\.jsonl cannot be read"):
        build_items(sqlite_store, run, fixed=[], limits=limits(1), preparation=Preparation(), trust=Trust())
