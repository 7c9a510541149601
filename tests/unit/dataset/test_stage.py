"""Stage "dataset": selection within the caps, and files that are either complete or absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from connectors.chat import EndpointError
from connectors.messages import FlaggedResponse
from daemon.artifacts.examples import ExampleKind, read_examples
from daemon.artifacts.run_folder import DRIFT_FILE, HOLDOUT_FILE, REPLAY_FILE, TRAIN_FILE, load_manifest
from daemon.chat.readings import Limit
from daemon.dataset import stage as dataset
from daemon.dataset.golden import GoldenPairs
from daemon.dataset.replay import MAX_DRIFT_PAIRS
from daemon.dataset.run_files import render
from daemon.dataset.stage import MIN_REPLAY_PAIRS, DatasetStage
from daemon.dataset.usable import Usable
from daemon.errors import ChatDifferenceError, ServingError
from daemon.labels import LeftOut
from daemon.records import CorrectionSource, RunState, Split
from daemon.store import Store
from daemon.text.merging import merged
from daemon.text.similarity import Words, resembling
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.stores import add, lesson
from tests.fixtures.training import (
    FINGERPRINT,
    SUBJECTS,
    OrdinaryAnswers,
    lines_of,
    mistake,
    open_run,
    prepare,
    prepared,
    reports_of,
    teach,
)


def test_a_run_is_handed_over_with_its_files_and_items(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS))

    run = prepared(sqlite_store, make_stage(), tmp_path)

    assert run.state is RunState.TRAINING
    items = sqlite_store.runs.items(run.id)
    assert {item.report_id for item in items if item.role is Split.TRAIN} == reports_of(run, TRAIN_FILE)
    assert {item.report_id for item in items if item.role is Split.HOLDOUT} == reports_of(run, HOLDOUT_FILE)
    assert len(items) == len(SUBJECTS)
    assert sum(item.role is Split.HOLDOUT for item in items) == 4
    manifest = load_manifest(Path(run.folder))
    assert (manifest.run_id, manifest.recipe, manifest.seed) == (run.id, "mistake-analysis+correction", 1)
    assert manifest.examples == {"analysis": 16, "correction": 16, "replay": 8, "drift": MAX_DRIFT_PAIRS}
    assert {name: file.lines for name, file in manifest.files.items()} == {
        TRAIN_FILE: 32,
        HOLDOUT_FILE: 4,
        REPLAY_FILE: 8,
        DRIFT_FILE: MAX_DRIFT_PAIRS,
    }


@pytest.mark.parametrize("decides", [False, True])
def test_a_run_selects_once_and_again_after_a_decision_of_an_operator(
    sqlite_store: Store,
    tmp_path: Path,
    make_stage: Callable[..., DatasetStage],
    monkeypatch: pytest.MonkeyPatch,
    decides: bool,
) -> None:
    read: list[int] = []
    trainable = sqlite_store.reports.trainable

    def counted(**how: int) -> object:
        read.append(len(read))
        return trainable(**how)

    monkeypatch.setattr(type(sqlite_store.reports), "trainable", lambda _self, **how: counted(**how))
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS))
    stage = make_stage(replay_fraction=0.9)
    open_run(sqlite_store, tmp_path / "runs")
    stage.step(life())
    assert len(read) == 1
    gone = sqlite_store.reports.find(limit=1)[0].id
    if decides:
        sqlite_store.reports.erase(gone, actor="op", reason="asked")
    run = prepare(sqlite_store, stage)
    assert run.state is RunState.TRAINING
    assert len(read) == 1 + decides
    assert (gone in {item.report_id for item in sqlite_store.runs.items(run.id)}) is not decides


def test_the_same_lessons_and_seed_give_the_same_files(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    manifests = []
    for _ in range(2):
        run = prepared(sqlite_store, make_stage(), tmp_path)
        manifests.append(load_manifest(Path(run.folder)))
        sqlite_store.runs.failed(run.id, reason="only the dataset is of interest")

    assert manifests[0].files == manifests[1].files


def test_what_is_held_out_gives_way_to_what_is_trained_and_resembles_it(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    """Three reports about each topic in a category of their own keep no report of these topics out of training."""
    honest = [mistake(subject, category="wrong-fact", id=f"honest-{subject}") for subject in SUBJECTS[:10]]
    hostile = [
        flagged(
            id=f"hostile-{subject}-{number}",
            category="tone",
            messages=[{"role": "user", "content": f"{' '.join(words)} {subject}"}],
            response=f"No {subject}, {number}.",
            reporter="hostile",
        )
        for subject in SUBJECTS[:10]
        for number, words in enumerate((["Tell"], ["Tell", "tell", "again"], ["tell", "once"]))
    ]
    teach(sqlite_store, *hostile)
    sides = [Split.HOLDOUT if number % 3 else Split.TRAIN for number in range(len(hostile))]
    for one, side in zip(hostile, sides, strict=True):  # the worst split that a key could make
        text = one.messages[-1].text
        sqlite_store.clusters.open(report_id=one.id, category="style", leader_text=text, split=side)
    teach(sqlite_store, *honest)
    for one in honest:
        text = one.messages[-1].text
        sqlite_store.clusters.open(report_id=one.id, category="wrong-fact", leader_text=text, split=Split.TRAIN)

    run = prepared(sqlite_store, make_stage(cluster_similarity=0.5), tmp_path)

    assert {one.id for one in honest} <= reports_of(run, TRAIN_FILE)
    assert load_manifest(Path(run.folder)).left_out[LeftOut.TRAINED_ALIKE] > 0

    def prompts(file: str) -> list[str]:
        return [line["messages"][-1]["content"] for line in lines_of(run, file)]

    similar = resembling(prompts(HOLDOUT_FILE), prompts(TRAIN_FILE), vectorizer=Words(), similarity=0.5)
    assert not any(similar)


@pytest.mark.parametrize(
    ("cap", "kept"),
    [({"max_per_reporter": 3}, 3 + 3), ({"max_per_cluster": 2}, 10 + 2), ({"max_reports": 6}, 6)],
    ids=["reporter", "cluster", "all"],
)
def test_caps_are_absolute(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], cap: dict[str, int], kept: int
) -> None:
    same = [
        mistake("kettles", id=f"same-{number}", reporter="other", reason=f"reason {number}").model_copy(
            update={"response": f"Kettles are {number}."}
        )
        for number in range(4)
    ]
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:10]), *same)

    run = prepared(sqlite_store, make_stage(holdout_fraction=0.0, **cap), tmp_path)

    assert len(sqlite_store.runs.items(run.id)) == kept
    assert sum(load_manifest(Path(run.folder)).left_out.values()) == 14 - kept


def _about(subject: str, answer: str, **changes: Any) -> FlaggedResponse:
    """A report that is not similar to `mistake`, optionally with a system message."""
    system = [{"role": "system", "content": changes.pop("system")}] if "system" in changes else []
    messages = [*system, {"role": "user", "content": subject}]
    return flagged(messages=messages, response=answer, **changes)


def test_a_report_about_an_image_is_counted_as_left_out_and_fails_no_run(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    parts = ["Tell me about this", {"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}]
    seen = mistake("pictures", id="seen").model_dump()
    teach(
        sqlite_store,
        FlaggedResponse.model_validate({**seen, "messages": [{"role": "user", "content": parts}]}),
        mistake("tall ships", id="empty").model_copy(update={"response": "", "reason": ""}),
        mistake("tall towers", id="plain"),
    )

    run = prepared(sqlite_store, make_stage(holdout_fraction=0.0), tmp_path)

    assert reports_of(run, TRAIN_FILE) == {"empty", "plain"}
    assert load_manifest(Path(run.folder)).left_out == {LeftOut.NOT_TRAINABLE: 1}
    assert run.progress["left_out"] == {"not_trainable": 1}
    assert REGISTRY.get_sample_value("erratad_dataset_left_out", {"reason": "not_trainable"}) == 1


def test_of_near_duplicates_one_report_is_trained_on_and_the_rest_is_counted(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    question, answer = "Tell me about tall ships", "They are short."
    teach(
        sqlite_store,
        _about(question, answer, id="first"),
        _about("Tell me about the tall ships!", "they are SHORT", id="again"),
        _about(question, "They are submarines.", id="another-answer"),
        _about("Tell me about tall towers", answer, id="another-question"),
        _about(question, answer, id="another-context", system="Answer in French."),
        _about(question, f"{answer}..", id="another-category", category="style"),
        _about(question, f"{answer}!", id="the-newest", reason="Another person saw it as well."),
    )

    run = prepared(sqlite_store, make_stage(holdout_fraction=0.0), tmp_path)

    manifest = load_manifest(Path(run.folder))
    assert reports_of(run, TRAIN_FILE) == {
        "the-newest", "another-answer", "another-question", "another-context", "another-category"
    }  # fmt: skip
    assert manifest.left_out == {LeftOut.NEAR_DUPLICATE: 2}
    assert run.progress["left_out"] == {"near_duplicate": 2}
    sample = {"reason": "near_duplicate"}
    assert REGISTRY.get_sample_value("erratad_dataset_left_out", sample) == 2


def test_a_correction_counts_under_the_cap_of_the_reporter_who_gave_it(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    asked = [mistake(subject).model_copy(update={"reporter": subject}) for subject in SUBJECTS[:5]]
    add(sqlite_store, *asked)
    given = {"reporter": "loud", "reason": "", "checks": {"must_contain": ["better"], "must_not_contain": ["secret"]}}
    for number, one in enumerate(asked[:4]):
        same = {"messages": one.messages, "response": one.response, **given}
        add(sqlite_store, flagged(**same, correction=f"A better answer {number}."))
    for claim in sqlite_store.reports.claim(owner="w", limit=9, lease_s=60):
        better = merged(claim.report).flagged.correction
        source = None if better is None else CorrectionSource.USER
        taught = lesson(claim.report.id, correction=better, correction_source=source)
        sqlite_store.reports.complete(claim, taught)

    run = prepared(sqlite_store, make_stage(holdout_fraction=0.0, max_per_reporter=2), tmp_path)

    assert load_manifest(Path(run.folder)).left_out == {LeftOut.MAX_PER_REPORTER: 2}
    assert asked[4].id in reports_of(run, TRAIN_FILE)


def test_near_duplicates_take_no_place_under_the_caps(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    copies = [_about(f"Tell me about {'the ' * number}tall ships", "No.", id=f"copy-{number}") for number in range(4)]
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:4]), *copies)

    run = prepared(sqlite_store, make_stage(holdout_fraction=0.0, max_reports=5), tmp_path)

    assert load_manifest(Path(run.folder)).left_out == {LeftOut.NEAR_DUPLICATE: 3}
    assert len(sqlite_store.runs.items(run.id)) == 5


def test_held_out_near_duplicates_stay(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    run = prepared(sqlite_store, make_stage(holdout_fraction=0.25), tmp_path)
    held = sqlite_store.reports.get(lines_of(run, HOLDOUT_FILE)[0]["id"])
    sqlite_store.runs.failed(run.id, reason="once more, with a second report of what is held out")
    teach(sqlite_store, held.flagged.model_copy(update={"id": "again", "response": held.flagged.response.upper()}))

    run = prepared(sqlite_store, make_stage(holdout_fraction=0.25), tmp_path)

    assert {held.id, "again"} <= reports_of(run, HOLDOUT_FILE)


def test_too_few_lessons_fail_the_run_with_the_count(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers
) -> None:
    teach(sqlite_store, mistake("rivers"))

    run = prepared(sqlite_store, make_stage(), tmp_path)

    assert run.state is RunState.FAILED
    assert run.reason is not None
    assert "too few lessons: 1 of 1" in run.reason
    assert servers.asked == []


def test_a_recipe_that_finds_no_correction_says_so(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:6]), correction=None)

    run = prepared(sqlite_store, make_stage(), tmp_path, recipe="sft")

    assert run.reason is not None
    assert "without an example under the recipe" in run.reason


def test_an_unknown_recipe_fails_the_run(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:6]))
    run = prepared(sqlite_store, make_stage(), tmp_path, recipe="magic")
    assert (run.state, "no recipe 'magic'" in (run.reason or "")) == (RunState.FAILED, True)


def test_a_server_that_is_away_is_waited_for(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    open_run(sqlite_store, tmp_path / "runs")
    stage = make_stage()
    for failure in (EndpointError("connection refused", transient=True), ServingError("none is ready")):
        servers.failing = failure  # type: ignore[assignment]
        step = stage.step(life())
        assert not step.worked
        assert "waits for a model server" in step.sentence

    servers.failing = None
    assert prepare(sqlite_store, stage).state is RunState.TRAINING


def test_a_server_that_refuses_fails_the_run(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    servers.failing = EndpointError("no model named base", transient=False)
    run = prepared(sqlite_store, make_stage(), tmp_path)
    assert (run.state, "no model named base" in (run.reason or "")) == (RunState.FAILED, True)


def test_servers_that_read_conversations_otherwise_fail_the_run_and_untested_ones_are_waited_for(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers
) -> None:
    found: list[Exception] = [
        ServingError("none is compared yet"),
        ChatDifferenceError("http://vllm reads it otherwise"),
    ]

    def check() -> None:
        raise found.pop(0)

    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    run = open_run(sqlite_store, tmp_path / "runs")
    stage = make_stage(check_chat=check)
    assert stage.step(life()).sentence == f"run {run.id} waits for a model server: none is compared yet"
    stage.step(life())
    failed = sqlite_store.runs.get(run.id)
    assert (failed.state, failed.reason) == (RunState.FAILED, "http://vllm reads it otherwise")
    assert not servers.asked
    assert sqlite_store.reports.count_new_lessons() == 8


def test_a_crash_before_the_hand_over_reuses_the_folder(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    run = open_run(sqlite_store, tmp_path / "runs")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_store.runs, "prepared", _crash)
        with pytest.raises(KeyboardInterrupt):
            prepare(sqlite_store, make_stage())
    written = (Path(run.folder) / TRAIN_FILE).stat().st_ino
    teach(sqlite_store, mistake("late arrivals"))

    assert prepare(sqlite_store, make_stage()).state is RunState.TRAINING
    assert (Path(run.folder) / TRAIN_FILE).stat().st_ino == written
    assert len(sqlite_store.runs.items(run.id)) == 8


def _crash(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("damage", ["cut", "missing", "no manifest", "another run"])
def test_a_folder_that_is_not_whole_is_written_again(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], damage: str
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    run = open_run(sqlite_store, tmp_path / "runs")
    folder = Path(run.folder)
    stage = make_stage()
    with stage._readings.of_run(run.id, life()) as session:
        limit = Limit(1000, LeftOut.TOO_LONG)
        usable = Usable(session, training=limit, serving=limit, guidance="")
        teaching = stage._teaching(run, FINGERPRINT)
        selection = stage._select(run, Words(), usable, teaching)
    pairs = dataset.Pairs(replay=(), drift=(), missing=())
    files = render(run, selection, pairs, FINGERPRINT, replay_per_epoch=0, golden=GoldenPairs(), teaching=teaching)
    if damage == "another run":
        files["manifest.json"] = files["manifest.json"].replace(b'"run_id": 1', b'"run_id": 7')
    dataset.publish_files(folder, files)
    if damage == "cut":
        (folder / TRAIN_FILE).chmod(0o644)
        (folder / TRAIN_FILE).write_bytes(files[TRAIN_FILE][:-10])
    elif damage == "missing":
        (folder / HOLDOUT_FILE).unlink()
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()

    assert prepare(sqlite_store, stage).state is RunState.TRAINING
    assert load_manifest(folder).run_id == run.id
    assert len(read_examples(folder / REPLAY_FILE)) == MIN_REPLAY_PAIRS
    assert {example.kind for example in read_examples(folder / DRIFT_FILE)} == {ExampleKind.DRIFT}


def test_a_folder_that_cannot_be_written_fails_the_run(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    (tmp_path / "runs").write_text("a file where the folder should be")

    run = prepared(sqlite_store, make_stage(), tmp_path)

    assert run.state is RunState.FAILED
    assert "the dataset cannot be written" in (run.reason or "")


def test_written_files_are_read_only(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    run = prepared(sqlite_store, make_stage(), tmp_path)
    for path in Path(run.folder).iterdir():
        assert path.stat().st_mode & 0o222 == 0


def test_without_a_run_the_stage_rests(make_stage: Callable[..., DatasetStage]) -> None:
    step = make_stage(replay_ahead=False).step(life())
    assert (step.sentence, step.worked) == ("no run to prepare", False)
