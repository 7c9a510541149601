"""Batches: exact boundaries, the token limit, and an order that depends only on the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.artifacts.examples import Example, ExampleKind
from daemon.chat.template import ChatTemplate
from daemon.config.chat import ChatConfig
from daemon.errors import TrainingError
from daemon.labels import LeftOut
from daemon.training.batches import IGNORED, Encoded, Objective, TrainingSet, pad, plan
from tests.fixtures.training import training_config


class LetterTokenizer:
    """One token per character; the template wraps each message in brackets."""

    name_or_path = ""
    eos_token_id = 0
    all_special_tokens: tuple[str, ...] = ()
    added_tokens_decoder: Mapping[int, Any] = {}
    bos_token = None

    def get_chat_template(self) -> str:
        return "the template is the next method"

    def apply_chat_template(
        self, messages: list[dict[str, str]], *, add_generation_prompt: bool, tokenize: bool, **_variables: Any
    ) -> str:
        assert not tokenize
        if messages[0]["content"] == "refused":
            raise ValueError("roles must alternate")
        text = "".join(f"[{message['role'][0]}:{message['content']}]" for message in messages)
        return text + "[a:" if add_generation_prompt else text

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids: list[int], **_options: Any) -> str:
        return "".join(map(chr, ids))


TEMPLATE = ChatTemplate(LetterTokenizer(), ChatConfig())


def _example(prompt: str, completion: str, *, report_id: str | None = "r", ends: bool = True) -> Example:
    messages = ({"role": "user", "content": prompt},)
    return Example(
        messages=messages, completion=completion, kind=ExampleKind.CORRECTION, report_id=report_id, ends=ends
    )


def _text(ids: list[int]) -> str:
    return "".join("$" if token == 0 else chr(token) for token in ids)


def test_only_the_completion_and_its_end_carry_loss() -> None:
    built = TrainingSet.build(TEMPLATE, [_example("hi", "yes")], training_config(), seed=1)
    [row] = pad(built.encoded, pad_id=0)["labels"]

    assert _text([*built.encoded[0].prompt, *built.encoded[0].completion]) == "[u:hi][a:yes$"
    assert row == [IGNORED, *map(ord, "yes"), 0]


def test_an_answer_that_was_cut_gets_no_end_token() -> None:
    built = TrainingSet.build(TEMPLATE, [_example("hi", "yes", ends=False)], training_config(), seed=1)
    assert _text(list(built.encoded[0].completion)) == "yes"


def _taught(prompt: str, told: str, completion: str, **changes: Any) -> Example:
    values = {"kind": ExampleKind.TAUGHT, "teacher_messages": ({"role": "user", "content": told},), **changes}
    return replace(_example(prompt, completion), **values)


def test_a_taught_example_has_one_answer_after_two_prompts() -> None:
    built = TrainingSet.build(TEMPLATE, [_taught("hi", "hi, kindly", "yes")], training_config(), seed=1)
    [row] = built.encoded
    assert (_text(list(row.prompt)), _text(list(row.teacher))) == ("[u:hi][a:", "[u:hi, kindly][a:")
    assert (_text(list(row.completion)), row.objective) == ("yes$", Objective.TEACHER)
    assert built.taught == (row,)


def test_a_teachers_prompt_that_cannot_be_used_leaves_the_example_out() -> None:
    examples = [_example("hi", "yes"), _taught("hi", "hi " * 20, "yes"), _taught("hi", "refused", "yes")]
    built = TrainingSet.build(TEMPLATE, examples, training_config(max_sequence_tokens=20), seed=1)
    assert built.left_out == {LeftOut.TOO_LONG: 1, LeftOut.TEMPLATE_REFUSES: 1}


def test_the_first_tokens_of_an_early_decision_count_ten_times_as_much() -> None:
    config = training_config(distillation={"early_tokens": 2})
    early, plain = TrainingSet.build(
        TEMPLATE, [_taught("hi", "ho", "yes", early=True), _taught("hi", "ho", "yes")], config, seed=1
    ).encoded
    assert early.weights() == pytest.approx([weight / 2.2 for weight in (1.0, 1.0, 0.1, 0.1)])
    assert plain.weights() == [0.25] * 4


def test_ordinary_pairs_have_weights_of_their_own_by_the_loss() -> None:
    replay = replace(_example("one?", "two", report_id=None), kind=ExampleKind.REPLAY)
    helpful = replace(_taught("one?", "one? Help fully.", "two", kind=ExampleKind.GOLDEN), report_id=None)

    def of(**config: Any) -> list[tuple[Objective, float]]:
        examples = [_taught("hi", "ho", "yes"), replay, helpful]
        built = TrainingSet.build(TEMPLATE, examples, training_config(**config), seed=1)
        return [(one.objective, one.weight) for one in built.encoded]

    assert of() == [(Objective.TEACHER, 1.0), (Objective.BASE_KL, 2.0), (Objective.TEACHER, 3.0)]
    assert of(replay_loss="distillation")[1] == (Objective.BASE, 3.0)
    assert of(replay_loss="cross-entropy")[1] == (Objective.ANSWER, 1.0)


def test_log_probabilities_of_other_tokens_are_not_used() -> None:
    rows = [_taught("hi", "ho", "yes", sampled_logprobs=(-1.0,) * count) for count in (4, 3)]
    four, three = TrainingSet.build(TEMPLATE, rows, training_config(), seed=1).encoded
    assert (four.sampled, three.sampled) == ((-1.0,) * 4, ())


def test_examples_that_are_left_out_later_take_their_reports_and_empty_steps_with_them() -> None:
    examples = [_example("hi", "yes", report_id=str(number)) for number in range(3)]
    built = TrainingSet.build(TEMPLATE, examples, training_config(batch_tokens=13, epochs=1), seed=1)
    weak = [one for one in built.encoded if one.report_id == "1"]

    left = built.without(weak, LeftOut.WEAK_COMPLAINT)

    assert (len(built.plan), len(left.plan)) == (3, 2)
    assert (left.report_ids, left.left_out, left.skipped) == (("0", "2"), {LeftOut.WEAK_COMPLAINT: 1}, 1)
    assert left.first(1).report_ids == tuple(sorted(built.encoded[index].report_id or "" for index in left.plan[0]))
    with pytest.raises(TrainingError, match="of 3: 3 whose complaint hardly changes"):
        built.without(built.encoded, LeftOut.WEAK_COMPLAINT)


@pytest.mark.parametrize("kind", sorted({*ExampleKind} - {ExampleKind.TAUGHT, ExampleKind.HINDSIGHT}))
def test_only_the_models_own_answers_are_replayed_and_approved_ones_are_targets(kind: ExampleKind) -> None:
    examples = [_example("hi", "yes"), replace(_example("one?", "two", report_id=None), kind=kind)]
    built = TrainingSet.build(TEMPLATE, examples, training_config(), seed=1)
    replayed = Objective.BASE_KL if kind is ExampleKind.REPLAY else Objective.ANSWER
    assert pad(built.encoded, pad_id=0)["objectives"] == [Objective.ANSWER, replayed]


def test_padding_is_neither_attended_to_nor_learned() -> None:
    batch = [Encoded(prompt=(5, 6, 7), completion=(8,)), Encoded(prompt=(5,), completion=(9,))]

    rows = pad(batch, pad_id=1)

    assert rows["input_ids"] == [[5, 6, 7, 8], [1, 1, 5, 9]]
    assert rows["attention_mask"] == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert rows["labels"] == [[IGNORED, 8], [IGNORED, 9]]


def test_logits_are_kept_from_the_token_before_the_longest_completion_on() -> None:
    batch = [Encoded(prompt=(5, 6, 7), completion=(8,)), Encoded(prompt=(5, 6), completion=(8, 9))]

    rows = pad(batch, pad_id=1)

    assert rows["logits_to_keep"] == 3
    assert rows["labels"] == [[IGNORED, IGNORED, 8], [IGNORED, 8, 9]]


def test_training_ends_within_its_bound_of_tokens() -> None:
    examples = [_example("hi", "yes", report_id=str(number)) for number in range(4)]  # 13 tokens each
    one = TrainingSet.build(TEMPLATE, examples, training_config(batch_tokens=26, epochs=9), seed=1)
    two = TrainingSet.build(TEMPLATE, examples, training_config(batch_tokens=26, epochs=9, max_tokens=80), seed=1)
    tiny = TrainingSet.build(TEMPLATE, examples, training_config(batch_tokens=26, epochs=9, max_tokens=1), seed=1)

    assert (len(one.plan), len(two.plan), len(tiny.plan)) == (18, 3, 1)
    assert two.plan == one.plan[:3]


def test_too_long_examples_are_left_out_and_are_no_part_of_the_lineage() -> None:
    config = training_config(max_sequence_tokens=20)
    examples = [_example("hi", "yes", report_id="short"), _example("hi " * 20, "yes", report_id="long")]

    built = TrainingSet.build(TEMPLATE, examples, config, seed=1)

    assert (built.report_ids, built.left_out) == (("short",), {LeftOut.TOO_LONG: 1})
    with pytest.raises(TrainingError, match=r"max_sequence_tokens \(20\)"):
        TrainingSet.build(TEMPLATE, examples[1:], config, seed=1)


def test_one_example_never_decides_over_a_run() -> None:
    examples = [
        _example("hi", "yes", report_id="good"),
        _example("refused", "yes", report_id="bad"),
        _example("hi", " ", report_id="blank"),
    ]

    built = TrainingSet.build(TEMPLATE, examples, training_config(), seed=1)

    assert (built.report_ids, built.skipped) == (("good",), 2)
    assert built.left_out == {LeftOut.TEMPLATE_REFUSES: 1, LeftOut.EMPTY: 1}
    with pytest.raises(TrainingError, match="of 2: 1 refused by the model's chat template, 1 with an empty answer"):
        TrainingSet.build(TEMPLATE, examples[1:], training_config(), seed=1)


def test_reports_without_an_example_in_a_step_are_no_part_of_the_lineage() -> None:
    examples = [_example("hi", "yes", report_id=str(number)) for number in range(4)]  # 13 tokens each
    built = TrainingSet.build(TEMPLATE, examples, training_config(batch_tokens=26, max_tokens=30), seed=1)

    [step] = built.plan
    assert built.report_ids == tuple(sorted(str(index) for index in step))
    assert len(built.report_ids) == 2


LENGTHS = st.lists(st.integers(min_value=1, max_value=300), min_size=1, max_size=200)


@given(lengths=LENGTHS, processes=st.integers(1, 5))
def test_the_processes_divide_each_step_and_all_of_them_make_it(lengths: list[int], processes: int) -> None:
    encoded = tuple(Encoded(prompt=(number,) * length, completion=(1,)) for number, length in enumerate(lengths))
    steps = tuple(plan(lengths, batch_tokens=600, epochs=1, seed=1))
    shares = TrainingSet(encoded=encoded, plan=steps, left_out={}).shares(processes)

    assert [share.step for share in shares] == [step for step in range(len(steps)) for _ in range(processes)]
    for step, batch in enumerate(steps):
        of_step = shares[step * processes : (step + 1) * processes]
        with_loss = [row for share in of_step for row in share.rows if row.completion]
        assert sorted(row.prompt for row in with_loss) == sorted(encoded[index].prompt for index in batch)
        assert {share.total for share in of_step} == {len(batch)}
        assert all(share.rows for share in of_step)


def test_a_process_without_an_example_computes_the_shortest_one_without_a_loss() -> None:
    encoded = (Encoded(prompt=(5, 6), completion=(7,)),)
    [_, idle] = TrainingSet(encoded=encoded, plan=((0,),), left_out={}).shares(2)

    rows = pad(idle.rows, pad_id=0)

    assert rows["input_ids"] == [[5, 6, 7]]
    assert rows["labels"] == [[IGNORED]]
    assert rows["logits_to_keep"] == 1


@given(lengths=LENGTHS, batch_tokens=st.integers(min_value=1, max_value=1000), epochs=st.integers(1, 3))
def test_each_epoch_takes_every_example_once_within_the_token_bound(
    lengths: list[int], batch_tokens: int, epochs: int
) -> None:
    steps = plan(lengths, batch_tokens=batch_tokens, epochs=epochs, seed=1)

    assert sorted(index for batch in steps for index in batch) == sorted(list(range(len(lengths))) * epochs)
    for batch in steps:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= batch_tokens


def test_each_epoch_takes_the_replay_whose_turn_it_is_and_all_else() -> None:
    examples = [
        _example("hi", "yes"),
        *[
            replace(_example(f"{n}?", "two", report_id=None), kind=kind)
            for n, kind in ((1, ExampleKind.GOLDEN), *((n, ExampleKind.REPLAY) for n in range(2, 7)))
        ],
    ]

    def epochs(replay_per_epoch: int | None) -> list[list[int]]:
        config = training_config(batch_tokens=1000, epochs=3)  # a step is an epoch
        built = TrainingSet.build(TEMPLATE, examples, config, seed=1, replay_per_epoch=replay_per_epoch)
        return [sorted(step) for step in built.plan]

    assert epochs(2) == [[0, 1, 2, 3], [0, 1, 4, 5], [0, 1, 2, 6]]
    assert epochs(0) == [[0, 1]] * 3
    assert epochs(None) == epochs(9) == [[0, 1, 2, 3, 4, 5, 6]] * 3


@given(lengths=LENGTHS, seed=st.integers(0, 3))
def test_the_same_seed_gives_the_same_order(lengths: list[int], seed: int) -> None:
    assert plan(lengths, batch_tokens=300, epochs=2, seed=seed) == plan(lengths, batch_tokens=300, epochs=2, seed=seed)


def test_epochs_and_seeds_differ_in_order() -> None:
    lengths = [10] * 40
    steps = plan(lengths, batch_tokens=40, epochs=2, seed=1)
    assert steps[:10] != steps[10:]
    assert steps != plan(lengths, batch_tokens=40, epochs=2, seed=2)


def test_part_of_an_epoch_makes_part_of_its_steps() -> None:
    assert len(plan([10] * 40, batch_tokens=40, epochs=1.5, seed=1)) == 15
    assert len(plan([10], batch_tokens=40, epochs=0.1, seed=1)) == 1
