"""Stage "dataset": selection within the caps, the ordinary pairs, and files that are there whole or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from connectors.chat import EndpointError
from connectors.messages import FlaggedResponse
from daemon import dataset
from daemon.dataset import MIN_REPLAY_PAIRS, DatasetStage, replay_size
from daemon.errors import ConfigError, ServingError
from daemon.recipes import ExampleKind, read_examples
from daemon.records import Run, RunState, Split
from daemon.replay import MAX_DRIFT_PAIRS, Context, Pairs, Replay, is_drift, read_prompts
from daemon.run_folder import DRIFT_FILE, HOLDOUT_FILE, REPLAY_FILE, TRAIN_FILE, LeftOut, load_manifest
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.training import SUBJECTS, OrdinaryAnswers, dataset_stage, mistake, open_run, prepare, teach

FINGERPRINT = "f" * 64


@pytest.fixture
def base_model(tmp_path: Path) -> Path:
    """What the fingerprint of a base model is made of."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def servers() -> OrdinaryAnswers:
    return OrdinaryAnswers()


@pytest.fixture
def make_stage(
    sqlite_store: Store, tmp_path: Path, base_model: Path, servers: OrdinaryAnswers
) -> Callable[..., DatasetStage]:
    few_pairs = {"replay_fraction": 0.2, "golden_pairs": False}
    return lambda **config: dataset_stage(sqlite_store, tmp_path, base_model, servers, **few_pairs | config)


def _lines(run: Run, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run.folder) / file).read_text().splitlines()]


def _reports_of(run: Run, file: str) -> set[str]:
    return {line.get("report_id", line["id"]) for line in _lines(run, file)}


def _prepare(store: Store, stage: DatasetStage, tmp_path: Path, **run: Any) -> Run:
    open_run(store, tmp_path / "runs", **run)
    return prepare(store, stage)


def test_a_run_is_handed_over_with_its_files_and_items(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS))

    run = _prepare(sqlite_store, make_stage(), tmp_path)

    assert run.state is RunState.TRAINING
    items = sqlite_store.runs.items(run.id)
    assert {item.report_id for item in items if item.role is Split.TRAIN} == _reports_of(run, TRAIN_FILE)
    assert {item.report_id for item in items if item.role is Split.HOLDOUT} == _reports_of(run, HOLDOUT_FILE)
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


def test_the_same_lessons_and_seed_give_the_same_files(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    manifests = []
    for _ in range(2):
        run = _prepare(sqlite_store, make_stage(), tmp_path)
        manifests.append(load_manifest(Path(run.folder)))
        sqlite_store.runs.failed(run.id, reason="only the dataset is of interest")

    assert manifests[0].files == manifests[1].files


def test_the_training_side_never_holds_what_resembles_the_held_out_side(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject, category="wrong-fact") for subject in SUBJECTS[:6]))
    # in the other order, so that the two categories hold out different subjects
    copies = [mistake(subject, category="tone", id=f"copy-{subject}") for subject in reversed(SUBJECTS[:6])]
    copies = [copy.model_copy(update={"response": f"{copy.response} Really."}) for copy in copies]
    teach(sqlite_store, *copies)

    run = _prepare(sqlite_store, make_stage(), tmp_path)

    def prompts(file: str) -> set[str]:
        return {line["messages"][0]["content"] for line in _lines(run, file)}

    assert prompts(HOLDOUT_FILE)
    assert prompts(TRAIN_FILE).isdisjoint(prompts(HOLDOUT_FILE))
    assert load_manifest(Path(run.folder)).left_out["similar to a held-out report"] > 0


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

    run = _prepare(sqlite_store, make_stage(holdout_fraction=0.0, **cap), tmp_path)

    assert len(sqlite_store.runs.items(run.id)) == kept
    assert sum(load_manifest(Path(run.folder)).left_out.values()) == 14 - kept


def _about(subject: str, answer: str, **changes: Any) -> FlaggedResponse:
    """Unlike `mistake`, with a wording of its own and a system message where one is given."""
    system = [{"role": "system", "content": changes.pop("system")}] if "system" in changes else []
    messages = [*system, {"role": "user", "content": subject}]
    return flagged(messages=messages, response=answer, **changes)


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

    run = _prepare(sqlite_store, make_stage(holdout_fraction=0.0), tmp_path)

    manifest = load_manifest(Path(run.folder))
    assert _reports_of(run, TRAIN_FILE) == {
        "the-newest", "another-answer", "another-question", "another-context", "another-category"
    }  # fmt: skip
    assert manifest.left_out == {LeftOut.NEAR_DUPLICATE: 2}
    assert run.progress["left_out"] == {"near-duplicate of another report": 2}
    sample = {"reason": LeftOut.NEAR_DUPLICATE.value}
    assert REGISTRY.get_sample_value("erratad_dataset_left_out", sample) == 2


def test_near_duplicates_take_no_place_under_the_caps(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    copies = [_about(f"Tell me about {'the ' * number}tall ships", "No.", id=f"copy-{number}") for number in range(4)]
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:4]), *copies)

    run = _prepare(sqlite_store, make_stage(holdout_fraction=0.0, max_reports=5), tmp_path)

    assert load_manifest(Path(run.folder)).left_out == {LeftOut.NEAR_DUPLICATE: 3}
    assert len(sqlite_store.runs.items(run.id)) == 5


def test_held_out_near_duplicates_stay(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    run = _prepare(sqlite_store, make_stage(holdout_fraction=0.25), tmp_path)
    held = sqlite_store.reports.get(_lines(run, HOLDOUT_FILE)[0]["id"])
    sqlite_store.runs.failed(run.id, reason="once more, with a second report of what is held out")
    teach(sqlite_store, held.flagged.model_copy(update={"id": "again", "response": held.flagged.response.upper()}))

    run = _prepare(sqlite_store, make_stage(holdout_fraction=0.25), tmp_path)

    assert {held.id, "again"} <= _reports_of(run, HOLDOUT_FILE)


def test_too_few_lessons_fail_the_run_with_the_count(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers
) -> None:
    teach(sqlite_store, mistake("rivers"))

    run = _prepare(sqlite_store, make_stage(), tmp_path)

    assert run.state is RunState.FAILED
    assert run.reason is not None
    assert "too few lessons: 1 of 1" in run.reason
    assert servers.asked == []


def test_a_recipe_that_finds_no_correction_says_so(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:6]), correction=None)

    run = _prepare(sqlite_store, make_stage(), tmp_path, recipe="sft")

    assert run.reason is not None
    assert "without an example under the recipe" in run.reason


def test_an_unknown_recipe_fails_the_run(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:6]))
    run = _prepare(sqlite_store, make_stage(), tmp_path, recipe="magic")
    assert (run.state, "no recipe 'magic'" in (run.reason or "")) == (RunState.FAILED, True)


# --- ordinary pairs ---


def _replay(servers: OrdinaryAnswers, cache_dir: Path) -> Replay:
    return Replay(
        servers=servers,
        base_name="base",
        prompts=None,
        max_tokens=8,
        cache_dir=cache_dir,
        guidance="Answer well.",
        in_context=0.5,
    )


def _answered(replay: Replay, count: int, contexts: list[Context]) -> Pairs:
    while (pairs := replay.pairs(FINGERPRINT, count=count, seed=1, contexts=contexts)).missing:
        replay.ask(FINGERPRINT, pairs.missing)
    return pairs


def test_the_base_model_is_asked_once_per_prompt(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    run = _prepare(sqlite_store, make_stage(), tmp_path)
    assert len(servers.asked) == len(set(servers.asked)) == MAX_DRIFT_PAIRS + MIN_REPLAY_PAIRS
    sqlite_store.runs.failed(run.id, reason="once more")

    _prepare(sqlite_store, make_stage(), tmp_path)

    assert len(servers.asked) == MAX_DRIFT_PAIRS + MIN_REPLAY_PAIRS


def test_another_base_model_is_asked_anew(
    sqlite_store: Store,
    tmp_path: Path,
    base_model: Path,
    make_stage: Callable[..., DatasetStage],
    servers: OrdinaryAnswers,
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    run = _prepare(sqlite_store, make_stage(), tmp_path)
    sqlite_store.runs.failed(run.id, reason="once more")
    (base_model / "model.safetensors").write_bytes(b"other weights")

    _prepare(sqlite_store, make_stage(), tmp_path)

    assert len(servers.asked) == 2 * (MAX_DRIFT_PAIRS + MIN_REPLAY_PAIRS)


def test_no_drift_prompt_is_ever_trained_on(tmp_path: Path, servers: OrdinaryAnswers) -> None:
    replay = _replay(servers, tmp_path)
    replay.ask(FINGERPRINT, read_prompts(None))

    drift = {example.id for example in replay.pairs(FINGERPRINT, count=0, seed=0).drift}
    for seed in range(5):
        pairs = replay.pairs(FINGERPRINT, count=500, seed=seed)
        assert {example.id for example in pairs.drift} == drift
        texts = {str(example.messages[-1]["content"]) for example in pairs.replay}
        assert texts == {prompt[-1]["content"] for prompt in read_prompts(None) if not is_drift(prompt)}
        assert len(pairs.replay) == sum(not is_drift(prompt) for prompt in read_prompts(None))


def test_the_shipped_prompts_are_many_short_and_leave_enough_for_drift() -> None:
    prompts = read_prompts(None)
    assert len(prompts) >= 400
    texts = [" ".join(message["content"] for message in prompt) for prompt in prompts]
    assert len({text.casefold() for text in texts}) == len(prompts)
    assert max(map(len, texts)) < 200
    assert sum(map(is_drift, prompts)) >= MAX_DRIFT_PAIRS


def test_each_answer_is_drawn_by_a_seed_that_its_prompt_decides(tmp_path: Path, servers: OrdinaryAnswers) -> None:
    replay = _replay(servers, tmp_path)
    replay.ask(FINGERPRINT, read_prompts(None)[:20])
    again = [*servers.seeds]
    replay.ask(FINGERPRINT, read_prompts(None)[:20])
    assert len(set(again)) == 20
    assert sorted(servers.seeds[20:]) == sorted(again)


def test_an_answer_cut_at_the_token_limit_is_marked_as_unfinished(tmp_path: Path, servers: OrdinaryAnswers) -> None:
    servers.finish_reason = "length"
    replay = _replay(servers, tmp_path)
    replay.ask(FINGERPRINT, read_prompts(None)[:40])
    assert {example.ends for example in replay.pairs(FINGERPRINT, count=10, seed=1).drift} == {False}


def test_every_second_replay_pair_stands_under_the_guidance_and_no_drift_pair_does(
    tmp_path: Path, servers: OrdinaryAnswers
) -> None:
    replay = _replay(servers, tmp_path)
    replay.ask(FINGERPRINT, read_prompts(None))
    pairs = replay.pairs(FINGERPRINT, count=20, seed=1)
    guided = ["Answer well." in str(example.messages[0]["content"]) for example in pairs.replay]
    assert guided == [False, True] * 10
    assert not any("Answer well." in str(example.messages[0]["content"]) for example in pairs.drift)
    assert not any("Answer well." in prompt for prompt in servers.asked)


def _in_shop(secret: str = "sunshine") -> FlaggedResponse:
    system = {"role": "system", "content": f"You work in a shop. The code is {secret}."}
    question = {"role": "user", "content": f"Tell me about {secret}"}
    return flagged(messages=[system, question], response=f"It is {secret}.", checks={"must_not_contain": [secret]})


def test_as_large_a_share_of_the_replay_as_of_the_reports_stands_under_their_system_messages(
    tmp_path: Path, servers: OrdinaryAnswers
) -> None:
    replay = _replay(servers, tmp_path)
    shop, plain = Context.of(_in_shop()), Context.of(mistake("owls"))
    assert (shop.system, plain.system) == ("You work in a shop. The code is sunshine.", "")
    for contexts, low, high in (([], 0, 0), ([plain], 0, 0), ([shop, plain, plain, plain], 15, 35), ([shop], 40, 60)):
        pairs = _answered(replay, 100, contexts)
        inside = [pair for pair in pairs.replay if shop.system in str(pair.messages[0]["content"])]
        assert low <= len(inside) <= high, contexts
        assert {message["role"] for pair in inside for message in pair.messages} <= {"system", "user"}
        assert not any(shop.system in str(pair.messages) for pair in pairs.drift)
        guided = sum(str(pair.messages[0]["content"]).startswith("Answer well.\n\nYou work") for pair in inside)
        assert guided < len(inside) or not inside


def test_an_answer_that_tells_what_the_system_message_hides_is_never_replayed(
    tmp_path: Path, servers: OrdinaryAnswers
) -> None:
    servers.says = "By the way, the code is sunshine."
    pairs = _answered(_replay(servers, tmp_path), 40, [Context.of(_in_shop())])
    assert len(pairs.replay) == 40
    assert not any("You work in a shop" in str(pair.messages) for pair in pairs.replay)


def test_answers_under_a_report_that_is_no_longer_trained_on_leave_the_disk(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers
) -> None:
    def kept() -> str:
        return "".join(path.read_text() for path in tmp_path.glob("replay/*/*.json"))

    gone = _in_shop("river")
    teach(sqlite_store, _in_shop("sunshine"), _in_shop("apple"), gone)
    config = {"holdout_fraction": 0.0, "replay_fraction": 0.9, "replay_in_context": 1.0, "near_duplicate": 1.0}
    run = _prepare(sqlite_store, make_stage(**config), tmp_path)
    assert any("You work in a shop" in str(line["messages"]) for line in _lines(run, REPLAY_FILE))
    assert "The code is river" in kept()
    sqlite_store.runs.failed(run.id, reason="once more")
    sqlite_store.reports.erase(gone.id, actor="admin", reason="a request")

    _prepare(sqlite_store, make_stage(**config), tmp_path)

    assert "The code is river" not in kept()
    assert "The code is apple" in kept()


def test_each_epoch_has_ordinary_pairs_of_its_own(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS))

    pairs = []
    for bound in (500, 20):
        run = _prepare(sqlite_store, make_stage(epochs=2.5, max_replay_pairs=bound), tmp_path)
        manifest = load_manifest(Path(run.folder))
        pairs.append((manifest.replay_per_epoch, manifest.files[REPLAY_FILE].lines))
        sqlite_store.runs.failed(run.id, reason="once more")

    assert pairs == [(MIN_REPLAY_PAIRS, 3 * MIN_REPLAY_PAIRS), (MIN_REPLAY_PAIRS, 20)]


def test_replay_is_a_share_of_an_epoch() -> None:
    assert replay_size(80, 0.2) == 20
    assert replay_size(4, 0.2) == MIN_REPLAY_PAIRS
    assert replay_size(80, 0.0) == 0
    assert replay_size(10, 1.0) == 90


def test_prompts_of_ones_own_are_taken_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "One?"}\n\n{"prompt": "Two?"}\n{"prompt": "One?"}\n')
    assert [[message["content"] for message in prompt] for prompt in read_prompts(path)] == [["One?"], ["Two?"]]
    path.write_text('{"prompt": "One?", "system": "Be brief."}\n')
    assert read_prompts(path) == [({"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"})]
    path.write_text('{"prompt": "One?"}\n{"question": "Two?"}\n')
    with pytest.raises(ConfigError, match="line 2: prompt: "):
        read_prompts(path)
    with pytest.raises(ConfigError, match=r"dataset\.replay_prompts"):
        read_prompts(tmp_path / "absent.jsonl")


def _golden(path: Path, *pairs: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def test_the_shipped_golden_pairs_are_trained_half_of_them_under_the_guidance(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS))
    run = _prepare(sqlite_store, make_stage(golden_pairs=None), tmp_path)
    golden = [one for one in read_examples(Path(run.folder) / REPLAY_FILE) if one.kind is ExampleKind.GOLDEN]
    guided = ["Answer well." in str(one.messages[0]["content"]) for one in golden]
    assert len(golden) == 17  # 0.35 of 49, of which 32 are examples from reports
    assert guided == [False, True] * 8 + [False]


def test_golden_pairs_are_trained_as_they_stand_up_to_their_share(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS))
    pairs = [{"prompt": f"Golden question {number}?", "answer": f" Answer {number}. "} for number in range(9)]
    path = _golden(tmp_path / "golden.jsonl", {**pairs[0], "system": "Be brief."}, *pairs[1:], pairs[1])

    run = _prepare(sqlite_store, make_stage(golden_pairs=path, golden_fraction=0.2), tmp_path)

    golden = [one for one in read_examples(Path(run.folder) / REPLAY_FILE) if one.kind is ExampleKind.GOLDEN]
    assert len(golden) == 8  # a fifth of 32 examples from reports and these
    assert {one.completion for one in golden} < {f"Answer {number}." for number in range(9)}
    systems = {str(one.messages[0]["content"]) for one in golden if len(one.messages) == 2}
    assert systems <= {"Be brief.", "Answer well.", "Be brief.\n\nAnswer well."}
    assert load_manifest(Path(run.folder)).examples["golden"] == 8
    assert run.progress["examples"]["golden"] == 8


def test_no_golden_pair_resembles_a_held_out_report(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS))
    pairs = [{"prompt": f"Tell me about {subject}!", "answer": "They exist."} for subject in SUBJECTS]
    path = _golden(tmp_path / "golden.jsonl", *pairs)

    run = _prepare(sqlite_store, make_stage(golden_pairs=path, golden_fraction=0.9), tmp_path)

    held_out = {line["messages"][0]["content"] for line in _lines(run, HOLDOUT_FILE)}
    golden = {line["messages"][-1]["content"] for line in _lines(run, REPLAY_FILE) if line["kind"] == "golden"}
    assert len(held_out) == 4
    assert golden == {pair["prompt"] for pair in pairs if pair["prompt"].replace("!", "") not in held_out}


@pytest.mark.parametrize("wrong", [{"prompt": "One?"}, {"prompt": "One?", "answer": " "}, {"question": "One?"}])
def test_a_wrong_golden_pair_fails_the_run_by_file_and_line(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], wrong: dict[str, str]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    path = _golden(tmp_path / "golden.jsonl", {"prompt": "Zero?", "answer": "0"}, wrong)
    run = _prepare(sqlite_store, make_stage(golden_pairs=path), tmp_path)
    assert run.state is RunState.FAILED
    assert f"dataset.golden_pairs: {path}, line 2" in (run.reason or "")


# --- faults ---


def test_a_server_that_is_away_is_waited_for(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    open_run(sqlite_store, tmp_path / "runs")
    stage = make_stage()
    for failure in (EndpointError("connection refused", transient=True), ServingError("none is ready")):
        servers.failing = failure  # type: ignore[assignment]
        step = stage.step(threading.Event())
        assert not step.worked
        assert "waits for a model server" in step.sentence

    servers.failing = None
    assert prepare(sqlite_store, stage).state is RunState.TRAINING


def test_a_server_that_refuses_fails_the_run(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    servers.failing = EndpointError("no model named base", transient=False)
    run = _prepare(sqlite_store, make_stage(), tmp_path)
    assert (run.state, "no model named base" in (run.reason or "")) == (RunState.FAILED, True)


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


def _crash(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("damage", ["cut", "missing", "no manifest", "another run"])
def test_a_folder_that_is_not_whole_is_written_again(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], damage: str
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    run = open_run(sqlite_store, tmp_path / "runs")
    folder = Path(run.folder)
    stage = make_stage()
    selection = stage._select(run)
    pairs = dataset.Pairs(replay=(), drift=(), missing=())
    files = dataset.render(run, selection, pairs, FINGERPRINT, replay_per_epoch=0)
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

    run = _prepare(sqlite_store, make_stage(), tmp_path)

    assert run.state is RunState.FAILED
    assert "the dataset cannot be written" in (run.reason or "")


def test_written_files_are_read_only(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    run = _prepare(sqlite_store, make_stage(), tmp_path)
    for path in Path(run.folder).iterdir():
        assert path.stat().st_mode & 0o222 == 0


def test_without_a_run_the_stage_rests(make_stage: Callable[..., DatasetStage]) -> None:
    step = make_stage().step(threading.Event())
    assert (step.sentence, step.worked) == ("no run to prepare", False)
