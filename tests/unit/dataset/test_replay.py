"""Ordinary pairs in a dataset: replay of the base model's own answers, drift pairs and golden pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.messages import FlaggedResponse
from daemon.artifacts.examples import ExampleKind, read_examples
from daemon.artifacts.run_folder import HOLDOUT_FILE, REPLAY_FILE, load_manifest
from daemon.chat.preparation import Preparation
from daemon.chat.thoughts import split_thoughts
from daemon.config.training import TrainingConfig
from daemon.dataset.replay import MAX_DRIFT_PAIRS, Context, Pairs, ReplaySource, is_drift, read_prompts
from daemon.dataset.stage import MIN_REPLAY_PAIRS, DatasetStage, replay_size
from daemon.errors import ConfigError
from daemon.records import RunState
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.training import FINGERPRINT, SUBJECTS, OrdinaryAnswers, lines_of, mistake, prepared, teach


def _replay(servers: OrdinaryAnswers, cache_dir: Path) -> ReplaySource:
    return ReplaySource(
        fleet=servers,
        base_name="base",
        prompts=None,
        max_tokens=8,
        cache_dir=cache_dir,
        guidance="Answer well.",
        in_context=0.5,
    )


def _answered(replay: ReplaySource, count: int, contexts: list[Context]) -> Pairs:
    while (pairs := replay.pairs(FINGERPRINT, count=count, seed=1, contexts=contexts)).missing:
        replay.ask(FINGERPRINT, pairs.missing)
    return pairs


def test_the_base_model_is_asked_once_per_prompt(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    run = prepared(sqlite_store, make_stage(), tmp_path)
    assert len(servers.asked) == len(set(servers.asked)) == MAX_DRIFT_PAIRS + MIN_REPLAY_PAIRS
    sqlite_store.runs.failed(run.id, reason="once more")

    prepared(sqlite_store, make_stage(), tmp_path)

    assert len(servers.asked) == MAX_DRIFT_PAIRS + MIN_REPLAY_PAIRS
    assert servers.temperatures == {1.0}


def test_another_chat_template_is_asked_anew_and_thoughts_are_kept(servers: OrdinaryAnswers, tmp_path: Path) -> None:
    tags = ("<think>", "</think>")
    first = _answered(_replay(servers, tmp_path), 8, [])
    asked = len(servers.asked)
    servers.preparation = Preparation(template="another", tags=tags)
    servers.thoughts = "hm"
    second = _answered(_replay(servers, tmp_path), 8, [])

    assert len(servers.asked) == 2 * asked
    for before, after in zip(first.replay, second.replay, strict=True):
        assert split_thoughts(after.completion, tags, opened=False) == ("hm", before.completion)


def test_another_base_model_is_asked_anew(
    sqlite_store: Store,
    tmp_path: Path,
    base_model: Path,
    make_stage: Callable[..., DatasetStage],
    servers: OrdinaryAnswers,
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    run = prepared(sqlite_store, make_stage(), tmp_path)
    sqlite_store.runs.failed(run.id, reason="once more")
    (base_model / "model.safetensors").write_bytes(b"other weights")

    prepared(sqlite_store, make_stage(), tmp_path)

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
    run = prepared(sqlite_store, make_stage(**config), tmp_path)
    assert any("You work in a shop" in str(line["messages"]) for line in lines_of(run, REPLAY_FILE))
    assert "The code is river" in kept()
    sqlite_store.runs.failed(run.id, reason="once more")
    sqlite_store.reports.erase(gone.id, actor="admin", reason="a request")

    prepared(sqlite_store, make_stage(**config), tmp_path)

    assert "The code is river" not in kept()
    assert "The code is apple" in kept()


def test_each_epoch_has_ordinary_pairs_of_its_own(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS))

    pairs = []
    for bound in (500, 20):
        run = prepared(sqlite_store, make_stage(training=TrainingConfig(epochs=2.5), max_replay_pairs=bound), tmp_path)
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
    run = prepared(sqlite_store, make_stage(golden_pairs=None), tmp_path)
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

    run = prepared(sqlite_store, make_stage(golden_pairs=path, golden_fraction=0.2), tmp_path)

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

    run = prepared(sqlite_store, make_stage(golden_pairs=path, golden_fraction=0.9), tmp_path)

    held_out = {line["messages"][0]["content"] for line in lines_of(run, HOLDOUT_FILE)}
    golden = {line["messages"][-1]["content"] for line in lines_of(run, REPLAY_FILE) if line["kind"] == "golden"}
    assert len(held_out) == 4
    assert golden == {pair["prompt"] for pair in pairs if pair["prompt"].replace("!", "") not in held_out}


@pytest.mark.parametrize("wrong", [{"prompt": "One?"}, {"prompt": "One?", "answer": " "}, {"question": "One?"}])
def test_a_wrong_golden_pair_fails_the_run_by_file_and_line(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], wrong: dict[str, str]
) -> None:
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))
    path = _golden(tmp_path / "golden.jsonl", {"prompt": "Zero?", "answer": "0"}, wrong)
    run = prepared(sqlite_store, make_stage(golden_pairs=path), tmp_path)
    assert run.state is RunState.FAILED
    assert f"dataset.golden_pairs: {path}, line 2" in (run.reason or "")
