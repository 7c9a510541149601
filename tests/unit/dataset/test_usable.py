"""One text that trainer or server cannot use is left out with its reason, and another takes its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.chat import EndpointError
from daemon.artifacts.examples import ExampleKind, read_examples
from daemon.artifacts.run_folder import DRIFT_FILE, HOLDOUT_FILE, REPLAY_FILE, TRAIN_FILE, load_manifest
from daemon.config.training import TrainingConfig
from daemon.dataset.answers import REFUSED_S
from daemon.dataset.replay import MAX_DRIFT_PAIRS
from daemon.dataset.stage import MIN_REPLAY_PAIRS, DatasetStage
from daemon.errors import ChatReaderError
from daemon.labels import LeftOut
from daemon.records import Run, RunState
from daemon.store import Store
from tests.fixtures.life import life
from tests.fixtures.training import (
    SUBJECTS,
    OrdinaryAnswers,
    ReaderByWords,
    mistake,
    open_run,
    prepare,
    prepared,
    reports_of,
    teach,
)

MakeStage = Callable[..., DatasetStage]


def _account(store: Store, run: Run) -> dict[str, tuple[LeftOut, str]]:
    return {one.report_id: (one.reason, one.detail) for one in store.left_out.of_run(run.id)}


def test_a_refused_report_is_left_out_with_its_reason_and_another_takes_its_place(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage
) -> None:
    teach(sqlite_store, *(mistake(subject, id=subject) for subject in SUBJECTS[:6]))
    newest = SUBJECTS[5]  # the newest are taken first
    reader = ReaderByWords({f"about {newest}": LeftOut.TEMPLATE_REFUSES})

    run = prepared(sqlite_store, make_stage(reader=reader, holdout_fraction=0.0, max_reports=3), tmp_path)

    assert run.state is RunState.TRAINING, run.reason
    assert reports_of(run, TRAIN_FILE) == set(SUBJECTS[2:5])
    assert _account(sqlite_store, run) == {newest: (LeftOut.TEMPLATE_REFUSES, f"it says about {newest}")}
    assert load_manifest(Path(run.folder)).left_out == {LeftOut.TEMPLATE_REFUSES: 1, LeftOut.MAX_REPORTS: 2}
    assert run.progress["left_out"] == {"template_refuses": 1, "max_reports": 2}
    assert run.progress["lessons"] == {"train": 3}


def test_one_child_reads_until_nothing_new_is_refused(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage
) -> None:
    teach(sqlite_store, *(mistake(subject, id=subject) for subject in SUBJECTS))
    reader = ReaderByWords({f"about {subject}": LeftOut.TOO_LONG for subject in SUBJECTS[4:]})

    stage = make_stage(reader=reader, holdout_fraction=0.0, max_reports=4, replay_fraction=0)
    run = prepared(sqlite_store, stage, tmp_path)

    assert reports_of(run, TRAIN_FILE) == set(SUBJECTS[:4])
    assert _account(sqlite_store, run).keys() == set(SUBJECTS[4:])
    assert reader.started <= 2  # drift texts are read when they are all there
    assert len({question.model_dump_json() for question in reader.asked}) == len(reader.asked)


def test_a_report_keeps_its_other_examples(sqlite_store: Store, tmp_path: Path, make_stage: MakeStage) -> None:
    teach(sqlite_store, *(mistake(subject, id=subject) for subject in SUBJECTS[:4]))
    reader = ReaderByWords({f"{SUBJECTS[0]} is plainly wrong": LeftOut.TOO_LONG})  # only the analysis says so

    run = prepared(sqlite_store, make_stage(reader=reader, holdout_fraction=0.0), tmp_path)

    examples = read_examples(Path(run.folder) / TRAIN_FILE)
    assert [one.kind for one in examples if one.report_id == SUBJECTS[0]] == [ExampleKind.CORRECTION]
    assert len(examples) == 7
    assert _account(sqlite_store, run) == {}
    assert run.progress["left_out_texts"]["analysis"] == {"too_long": 1}


def test_a_held_out_prompt_must_fit_the_served_context_with_the_guidance(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage
) -> None:
    teach(sqlite_store, *(mistake(subject, id=subject) for subject in SUBJECTS[:5]))
    plain = prepared(sqlite_store, make_stage(), tmp_path)
    [held_out] = reports_of(plain, HOLDOUT_FILE)
    sqlite_store.runs.failed(plain.id, reason="once more")

    # 4 words, and 2 of the guidance
    run = prepared(sqlite_store, make_stage(serving={"max_model_len": 6}, replay_fraction=0), tmp_path)

    assert reports_of(run, HOLDOUT_FILE) == set()
    assert _account(sqlite_store, run) == {held_out: (LeftOut.TOO_LONG_TO_SERVE, "6 tokens")}
    assert len(reports_of(run, TRAIN_FILE)) == 4


def test_a_run_with_nothing_left_fails_with_the_counts_and_keeps_the_account(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage
) -> None:
    teach(sqlite_store, *(mistake(subject, id=subject) for subject in SUBJECTS[:3]))
    reader = ReaderByWords({"rivers": LeftOut.EMPTY, "about": LeftOut.TEMPLATE_REFUSES})

    run = prepared(sqlite_store, make_stage(reader=reader, holdout_fraction=0.0), tmp_path)

    assert run.state is RunState.FAILED
    said = "too few lessons: 0 of 3 can be trained on"
    assert said in str(run.reason)
    assert "2 refused by the model's chat template, 1 with an empty answer to learn" in str(run.reason)
    assert {reason for reason, _ in _account(sqlite_store, run).values()} == {
        LeftOut.EMPTY,
        LeftOut.TEMPLATE_REFUSES,
    }
    assert run.progress["left_out"] == {"template_refuses": 2, "empty": 1}
    assert run.progress["lessons"] == {"train": 0, "holdout": 0}


def test_a_crash_before_the_hand_over_loses_no_account(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(sqlite_store, *(mistake(subject, id=subject) for subject in SUBJECTS[:4]))
    reader = ReaderByWords({"about rivers": LeftOut.TOO_LONG})

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_store.runs, "prepared", crash)
        with pytest.raises(KeyboardInterrupt):
            prepared(sqlite_store, make_stage(reader=reader, holdout_fraction=0.0), tmp_path)
    make_stage().step(life())

    run = sqlite_store.runs.active()
    assert run is not None
    assert run.state is RunState.TRAINING
    assert _account(sqlite_store, run).keys() == {"rivers"}


def test_a_report_erased_between_two_steps_is_not_used(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage
) -> None:
    teach(sqlite_store, *(mistake(subject, id=subject) for subject in SUBJECTS[:4]))
    open_run(sqlite_store, tmp_path / "runs")
    stage = make_stage(holdout_fraction=0.0)
    assert "0 ordinary prompts wait" in stage.step(life()).sentence
    sqlite_store.reports.erase(SUBJECTS[0], actor="op", reason="asked")

    assert reports_of(prepare(sqlite_store, stage), TRAIN_FILE) == set(SUBJECTS[1:4])


def test_a_child_that_fails_fails_the_run_with_its_words(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage
) -> None:
    def broken(**_: object) -> ReaderByWords:
        raise ChatReaderError("the process that reads conversations ended: out of memory")

    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:4]))
    run = prepared(sqlite_store, make_stage(reader=broken), tmp_path)
    assert (run.state, "out of memory" in str(run.reason)) == (RunState.FAILED, True)


class Refusing(OrdinaryAnswers):
    """Refuses prompts with one of the words; the others are answered. `empty`: words that get an empty answer."""

    def __init__(self, *refused: str, status: int = 400, empty: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.refused = refused
        self.status = status
        self.empty = empty

    def chat(self, model: str, messages: Any, **options: Any) -> Any:
        text = " ".join(message["content"] for message in messages)
        if any(word in text for word in self.refused):
            self.asked.append(text)
            raise EndpointError(f"HTTP {self.status}: too long", transient=False, status=self.status)
        self.says = " \u200b" if any(word in text for word in self.empty) else "A short answer about {}"
        return super().chat(model, messages, **options)


@pytest.fixture
def servers() -> OrdinaryAnswers:
    return Refusing("How", "What", empty=("Write",))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_ordinary_prompts_without_an_answer_are_left_out_and_others_take_their_places(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage, servers: Refusing, status: int
) -> None:
    servers.status = status
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))

    run = prepared(sqlite_store, make_stage(), tmp_path)

    assert run.state is RunState.TRAINING, run.reason
    assert len(read_examples(Path(run.folder) / REPLAY_FILE)) == MIN_REPLAY_PAIRS
    assert 0 < len(read_examples(Path(run.folder) / DRIFT_FILE)) <= MAX_DRIFT_PAIRS
    counts = run.progress["left_out_texts"]
    assert counts["replay"]["server_refuses"] > 0
    assert counts["drift"]["server_refuses"] > 0
    assert sum(one.get("empty", 0) for one in counts.values()) > 0


def test_a_refused_prompt_is_asked_again_only_after_days(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage, servers: Refusing
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    for asked in (True, False, True):
        before = len(servers.asked)
        run = prepared(sqlite_store, make_stage(), tmp_path)
        assert (len(servers.asked) > before) is asked
        sqlite_store.runs.failed(run.id, reason="once more")
        if not asked:
            for path in (tmp_path / "replay").glob("*/*.json"):
                old = path.stat().st_mtime - REFUSED_S - 60
                os.utime(path, (old, old))


def test_a_run_is_not_trained_without_the_ordinary_pairs_that_it_asks_for(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage, servers: Refusing
) -> None:
    servers.refused, servers.empty = (), ("",)
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:4]))
    run = prepared(sqlite_store, make_stage(replay_prompts=_prompts(tmp_path, 20)), tmp_path)
    assert run.state is RunState.FAILED
    assert "no ordinary pair is left of" in str(run.reason)
    assert "with an empty answer" in str(run.reason)

    run = prepared(sqlite_store, make_stage(replay_fraction=0, replay_prompts=_prompts(tmp_path, 20)), tmp_path)
    assert run.state is RunState.TRAINING


def _prompts(folder: Path, count: int) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "Question {number}"}}\n' for number in range(count)))
    return path


def test_a_long_system_message_costs_only_the_pairs_under_it(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage, servers: Refusing
) -> None:
    servers.refused, servers.empty = (), ()
    teach(sqlite_store, *(mistake(subject, id=subject) for subject in SUBJECTS[:8]))
    long = mistake("harbours", id="long").model_dump()
    messages = [{"role": "system", "content": "word " * 2800}, {"role": "user", "content": "Is it open today?"}]
    teach(sqlite_store, type(mistake("x")).model_validate({**long, "messages": messages}))

    # the report itself fits the trainer, but no server
    stage = make_stage(
        training=TrainingConfig(epochs=1, max_sequence_tokens=4096),
        serving={"max_model_len": 2048},
        holdout_fraction=0.0,
        replay_in_context=1.0,
    )
    run = prepared(sqlite_store, stage, tmp_path)

    assert run.state is RunState.TRAINING, run.reason
    assert not any(len(asked) > 10_000 for asked in servers.asked)
    assert len(read_examples(Path(run.folder) / REPLAY_FILE)) == MIN_REPLAY_PAIRS
    assert "long" in reports_of(run, TRAIN_FILE)
    assert run.progress["left_out_texts"]["replay"]["too_long_to_serve"] >= 1


def test_an_attached_server_that_refuses_a_long_system_message_fails_no_run(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage, servers: Refusing
) -> None:
    servers.refused, servers.empty = ("word word",), ()
    teach(sqlite_store, *(mistake(subject, id=subject) for subject in SUBJECTS[:8]))
    long = mistake("harbours", id="long").model_dump()
    messages = [{"role": "system", "content": "word " * 2800}, {"role": "user", "content": "Is it open today?"}]
    teach(sqlite_store, type(mistake("x")).model_validate({**long, "messages": messages}))

    stage = make_stage(
        training=TrainingConfig(epochs=1, max_sequence_tokens=4096),
        serving={"mode": "attached", "urls": ["http://vllm"], "admin_token_env": "TOKEN"},
        holdout_fraction=0.0,
        replay_in_context=1.0,
    )
    run = prepared(sqlite_store, stage, tmp_path)

    assert run.state is RunState.TRAINING, run.reason
    assert len(read_examples(Path(run.folder) / REPLAY_FILE)) == MIN_REPLAY_PAIRS
    assert run.progress["left_out_texts"]["replay"]["server_refuses"] >= 1


def test_golden_pairs_that_cannot_be_used_are_counted_and_others_are_taken(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage
) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text("".join(f'{{"prompt": "Task {n}", "answer": "done {n}"}}\n' for n in range(10)))
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:6]))
    reader = ReaderByWords({"Task 3": LeftOut.CONTROL_TOKENS})

    run = prepared(sqlite_store, make_stage(reader=reader, golden_pairs=path, golden_fraction=0.9), tmp_path)

    assert load_manifest(Path(run.folder)).examples["golden"] == 9
    assert run.progress["left_out_texts"]["golden"] == {"control_tokens": 1}


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        (ReaderByWords({"Keep in mind": LeftOut.TEMPLATE_REFUSES}), LeftOut.TEMPLATE_REFUSES),
        (ReaderByWords(), LeftOut.TOO_LONG),
    ],
)
def test_a_teachers_prompt_that_cannot_be_used_leaves_its_example_out(
    sqlite_store: Store, tmp_path: Path, make_stage: MakeStage, reader: ReaderByWords, reason: LeftOut
) -> None:
    teach(sqlite_store, *(mistake(subject, id=subject) for subject in SUBJECTS[:4]))  # the teacher sees the correction
    teach(sqlite_store, mistake(SUBJECTS[4], id="no-correction"), correction=None)  # the teacher sees the analysis
    tokens = 1024 if reason is LeftOut.TEMPLATE_REFUSES else 20  # of words; with the analysis it has more
    stage = make_stage(
        reader=reader, training=TrainingConfig(epochs=1, max_sequence_tokens=tokens), holdout_fraction=0.0
    )

    run = prepared(sqlite_store, stage, tmp_path, recipe="context-distillation")

    assert run.state is RunState.TRAINING, run.reason
    assert reports_of(run, TRAIN_FILE) == set(SUBJECTS[:4])
    account = _account(sqlite_store, run)
    assert {one: why for one, (why, _) in account.items()} == {"no-correction": reason}
