"""The shapes of public data sets and exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.messages import FlaggedResponse, Severity, decode
from daemon.intake.formats.answers import UnknownShapeError, flagged_in, read_row
from daemon.intake.formats.cells import COLUMNS, LeftOutError, RowError
from daemon.intake.formats.conversations import calls_of
from daemon.intake.formats.exports import unwrapped
from daemon.intake.formats.pairs import PREFERRED
from daemon.intake.formats.reports import NOTHING_SAYS, ImportOptions

SINGLE = {"prompt": "How?", "response": "Like this.", "is_safe": False}
PAIR = {
    "prompt": "How?",
    "response_0": "Like this.",
    "response_1": "Better not.",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "response_0_severity_level": 3,
    "response_0_harm_category": {"Violence": False, "Mental Manipulation": True},
    "response_0_source": "Alpaca-7B",
    "better_response_id": 1,
}
USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Bad"}
WRONG = ImportOptions(reason="Wrong.")


def one(row: dict[str, Any], options: ImportOptions | None = None) -> FlaggedResponse:
    [flagged] = read_row(row, options).reports
    return flagged


def turns(flagged: FlaggedResponse) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in flagged.messages]


def test_the_safe_one_of_a_pair_corrects_the_unsafe_one():
    flagged = one(PAIR)
    assert (flagged.response, flagged.correction) == ("Like this.", "Better not.")
    assert (flagged.category, flagged.severity, flagged.model) == ("mental-manipulation", Severity.HIGH, "Alpaca-7B")
    assert "mental manipulation" in flagged.reason


def test_two_unsafe_responses_are_two_reports_without_correction():
    both = list(flagged_in({**PAIR, "is_response_1_safe": False}))
    assert [flagged.response for flagged in both] == ["Like this.", "Better not."]
    assert [flagged.correction for flagged in both] == [None, None]
    assert both[0].id != both[1].id


def test_a_pair_of_safe_responses_gives_nothing():
    assert list(flagged_in({**PAIR, "is_response_0_safe": True})) == []


def test_an_empty_label_of_a_pair_leaves_only_that_response_out():
    flagged = one({**PAIR, "is_response_1_safe": None})
    assert (flagged.response, flagged.correction) == ("Like this.", None)
    with pytest.raises(LeftOutError, match="is_response_0_safe is empty"):
        read_row({**PAIR, "is_response_0_safe": None})


def test_of_a_ranked_pair_the_second_is_flagged_and_no_harm_is_invented():
    flagged = one({"prompt": "How?", "response": ["Better not.", "Like this."]})
    assert (flagged.response, flagged.correction) == ("Like this.", "Better not.")
    assert (flagged.category, flagged.reason) == (None, PREFERRED)


def test_the_harm_names_of_beavertails_are_category_and_reason():
    row = {**SINGLE, "category": {"animal_abuse": False, "privacy_violation": True, "violence": True}}
    for given_row in (row, {**row, "category": str(row["category"])}, {**row, "category": json.dumps(row["category"])}):
        flagged = one(given_row)
        assert flagged.category == "privacy-violation"
        assert flagged.reason == "Annotators marked the response as privacy violation, violence."


def test_facts_in_the_row_win_over_options_and_over_what_is_derived():
    row = {
        **SINGLE,
        "reason": "Rude.",
        "category": "rude",
        "severity": "low",
        "correction": "Kindly: no.",
        "model": "m",
    }
    for options in (None, ImportOptions(category="wrong-fact", reason="Wrong.")):
        flagged = one(row, options)
        assert (flagged.reason, flagged.category, flagged.severity) == ("Rude.", "rude", Severity.LOW)
        assert (flagged.correction, flagged.model) == ("Kindly: no.", "m")


def test_options_win_over_what_is_derived():
    flagged = one(SINGLE, ImportOptions(category="privacy", reason="It tells an address."))
    assert (flagged.category, flagged.reason) == ("privacy", "It tells an address.")


@pytest.mark.parametrize("label", [None, "", "null", "NaN", float("nan")])
def test_an_empty_label_is_left_out_with_a_reason(label):
    with pytest.raises(LeftOutError, match="is_safe is empty"):
        read_row({**SINGLE, "is_safe": label})


HH = {
    "chosen": "\n\nHuman: How do I pick a lock?\n\nAssistant: Whose?\n\nHuman: Mine.\n\nAssistant: Ask a locksmith.",
    "rejected": "\n\nHuman: How do I pick a lock?\n\nAssistant: Whose?\n\nHuman: Mine.\n\nAssistant: Use a pin.",
}
ASKED = [("user", "How do I pick a lock?"), ("assistant", "Whose?"), ("user", "Mine.")]


def test_a_transcript_of_hh_rlhf_becomes_turns():
    flagged = one(HH)
    assert turns(flagged) == ASKED
    assert (flagged.response, flagged.correction) == ("Use a pin.", "Ask a locksmith.")
    assert (flagged.category, flagged.reason) == (None, PREFERRED)


def test_the_preferred_answer_to_other_messages_is_no_correction():
    assert one({**HH, "chosen": "\n\nHuman: Another question\n\nAssistant: Yes."}).correction is None


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"prompt": "Q", "chosen": "good", "rejected": "bad"}, [("user", "Q")]),
        ({"question": "Q", "system": "S", "chosen": "good", "rejected": "bad"}, [("system", "S"), ("user", "Q")]),
        (
            {"prompt": "\n\nHuman: Q\n\nAssistant:", "chosen": " good", "rejected": " bad"},
            [("user", "Q")],
        ),
        (
            {
                "prompt": "Q",
                "chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}],
                "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"}],
                "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}],
                "score_chosen": 8.0,
                "score_rejected": 2.0,
            },
            [("user", "Q")],
        ),
        (
            {
                "prompt": [{"role": "user", "content": "Q"}],
                "chosen": [{"role": "assistant", "content": "good"}],
                "rejected": [{"role": "assistant", "content": "bad"}],
            },
            [("user", "Q")],
        ),
        (
            {
                "conversations": [{"from": "human", "value": "Q"}],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "bad"},
            },
            [("user", "Q")],
        ),
        (
            {
                "input": {"messages": [{"role": "user", "content": "Q"}], "tools": [], "parallel_tool_calls": True},
                "preferred_output": [{"role": "assistant", "content": "good"}],
                "non_preferred_output": [{"role": "assistant", "content": "bad"}],
            },
            [("user", "Q")],
        ),
        ({"prompt": "Q", "response_0": "bad", "response_1": "good", "better_response_id": 1}, [("user", "Q")]),
        ({"instruction": "Q", "input": "", "output_1": "good", "output_2": "bad", "preference": 1}, [("user", "Q")]),
        (
            {
                "conversation_a": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"}],
                "conversation_b": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}],
                "winner": "model_b",
                "model_a": "worse-7b",
            },
            [("user", "Q")],
        ),
        ({"prompt": "Q", "generations": ["good", "bad"], "ratings": [5, 1]}, [("user", "Q")]),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_a_preference_pair_flags_the_rejected_answer_and_says_only_that(row, question):
    for given_row in (row, {name: json.dumps(v) if isinstance(v, list | dict) else v for name, v in row.items()}):
        flagged = one(given_row)
        assert turns(flagged) == question
        assert (flagged.response.strip(), (flagged.correction or "").strip()) == ("bad", "good")
        assert (flagged.category, flagged.reason) == (None, PREFERRED)


def test_of_scored_completions_the_worst_is_flagged_with_its_critique():
    completions = [
        {"model": "a", "response": "good", "overall_score": 9, "critique": "Fine."},
        {"model": "b", "response": "bad", "overall_score": 2.5, "critique": "It invents a source."},
    ]
    flagged = one({"source": "x", "instruction": "Q", "models": ["a", "b"], "completions": completions})
    assert (flagged.response, flagged.correction, flagged.model) == ("bad", "good", "b")
    assert flagged.reason == "It invents a source."


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "Q", "chosen": "same", "rejected": "same"}, "the same"),
        ({"prompt": "Q", "chosen": "a", "rejected": "b", "score_chosen": 5, "score_rejected": 5}, "same score"),
        ({"prompt": "Q", "response_a": "a", "response_b": "b", "winner": "tie (bothbad)"}, "no answer was preferred"),
        ({"instruction": "Q", "completions": []}, "fewer than two"),
        ({"messages": [USER]}, "holds no answer"),
        ({"messages": [USER, ANSWER]}, NOTHING_SAYS),
        ({"instruction": "Q", "input": "", "output": "A"}, NOTHING_SAYS),
        ({"prompt": "Q", "response": "A", "is_good": 1}, "says that the answer is good"),
        ({"prompt": "Q", "completion": "A", "label": True}, "says that the answer is good"),
    ],
)
def test_a_row_without_a_bad_answer_is_left_out_with_a_reason(row, why):
    with pytest.raises(LeftOutError, match=why):
        read_row(row)


@pytest.mark.parametrize(
    ("row", "asked", "answer"),
    [
        ({"messages": [USER, ANSWER]}, [("user", "Hi")], "Bad"),
        ({"messages": [USER, {**ANSWER, "weight": 0}, USER]}, [("user", "Hi")], "Bad"),
        ({"messages": [USER], "response": "Bad"}, [("user", "Hi")], "Bad"),
        ({"prompt": "Hi", "completion": "Bad"}, [("user", "Hi")], "Bad"),
        ({"instruction": "Sum", "input": "1 2", "output": "4"}, [("user", "Sum\n\n1 2")], "4"),
        (
            {"instruction": "Q2", "input": "", "output": "A", "history": [["Q1", "A1"]]},
            [("user", "Q1"), ("assistant", "A1"), ("user", "Q2")],
            "A",
        ),
        (
            {
                "id": "1",
                "conversations": [
                    {"from": "system", "value": "S"},
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Bad"},
                ],
            },
            [("system", "S"), ("user", "Hi")],
            "Bad",
        ),
    ],
)
def test_rows_that_judge_nothing_are_reports_if_an_option_says_what_is_wrong(row, asked, answer):
    flagged = one(row, WRONG)
    assert (turns(flagged), flagged.response, flagged.reason, flagged.category) == (asked, answer, "Wrong.", None)
    assert one(row, ImportOptions(category="style")).category == "style"


def test_of_several_labels_a_bad_one_decides_and_an_empty_one_says_nothing():
    row = {"prompt": "Q", "response": "A", "thumbs_up": None, "thumbs_down": True, "is_safe": True, "feedback": "Meh"}
    assert (one(row).reason, one(row).category) == ("", None)
    with pytest.raises(LeftOutError, match="is_safe says that the answer is good"):
        read_row({**row, "thumbs_down": None})


def test_the_users_next_message_is_read_and_says_alone_nothing_about_the_answer():
    row = {"prompt": "Q", "response": "A", "next_message": "No, the other one."}
    flagged = one({**row, "thumbs_down": True})
    assert (flagged.follow_up, flagged.reason, flagged.category) == ("No, the other one.", "", None)
    with pytest.raises(LeftOutError, match=NOTHING_SAYS):
        read_row(row)


def test_a_topic_or_a_comment_alone_judges_nothing():
    for row in ({"category": "closed_qa"}, {"comment": "Great!"}):
        with pytest.raises(LeftOutError, match=NOTHING_SAYS):
            read_row({"instruction": "Q", "context": "", "response": "A", **row})
    assert one({"prompt": "Q", "response": "A", "reason": "It is short."}).reason == "It is short."


@pytest.mark.parametrize(
    "answer", ['{"answer": 42}', '["a", "b"]', "[Verse 1] La", "{oops", "[\\d]", '{"role": "king"}']
)
def test_an_answer_that_looks_like_json_stays_a_text(answer):
    flagged = one({"prompt": answer, "response": answer, "is_bad": True, "correction": answer})
    assert (turns(flagged), flagged.response, flagged.correction) == ([("user", answer)], answer, answer)
    assert one({"prompt": "Q", "chosen": "good", "rejected": answer}).response == answer


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (PAIR, "pairs with labels of safety (PKU-SafeRLHF)"),
        ({**SINGLE, "category": {"violence": True}}, "labelled answers (BeaverTails)"),
        (SINGLE, "labelled answers"),
        ({"prompt": "Q", "completion": "A", "label": False}, "labelled answers"),
        ({"messages": [USER, ANSWER]}, "messages of OpenAI"),
        (
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            "conversations of ShareGPT",
        ),
        ({"instruction": "Q", "input": "", "output": "A"}, "instructions (Alpaca)"),
        ({"question": "Q", "answer": "A"}, "questions and answers"),
    ],
)
def test_the_shape_of_a_row_is_named(row, shape):
    assert read_row(row, WRONG).shape == shape


def test_a_tool_call_stays_in_the_conversation():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "4"}, ANSWER]}
    assert one(row, WRONG).messages[1].tool_calls == [call]
    assert calls_of({"role": "assistant", "content": None, "tool_calls": [call]}) == [call]
    assert calls_of({"choices": [{"message": {"role": "assistant", "tool_calls": [call]}}]}) == [call]
    assert calls_of("a text") is None


WILDCHAT = {
    "conversation_hash": "h",
    "conversation": [
        {**USER, "toxic": False, "language": "English"},
        {"role": "assistant", "content": "Hello", "toxic": False},
        {**USER, "toxic": True},
        {**ANSWER, "toxic": True},
    ],
    "toxic": True,
}


def test_of_labelled_turns_the_toxic_answers_are_flagged():
    flagged = one(WILDCHAT)
    assert turns(flagged) == [("user", "Hi"), ("assistant", "Hello"), ("user", "Hi")]
    assert (flagged.response, flagged.category) == ("Bad", "toxic")


def test_a_toxic_question_alone_flags_no_answer():
    with pytest.raises(LeftOutError, match="no answer is marked"):
        read_row({**WILDCHAT, "conversation": WILDCHAT["conversation"][:3]})


def test_the_labels_of_toxicchat_are_about_the_request():
    row = {"conv_id": "1", "user_input": "Insult me", "model_output": "No.", "toxicity": 1, "jailbreaking": 0}
    with pytest.raises(LeftOutError, match=NOTHING_SAYS):
        read_row(row)
    assert one(row, WRONG).response == "No."
    with pytest.raises(LeftOutError, match="not marked as toxic"):
        read_row({**row, "toxicity": 0}, WRONG)


@pytest.mark.parametrize(
    "row",
    [
        {
            "id": "1",
            "status": "completed",
            "fields": {"prompt": "Q", "response": "A"},
            "metadata": {"model": "m"},
            "suggestions": {"reason": {"value": "A model's idea"}},
            "responses": {
                "is_good": [{"value": "no", "status": "submitted", "user_id": "u"}],
                "reason": [{"value": "draft", "status": "draft"}, {"value": "Too short.", "status": "submitted"}],
                "corrected_response": [{"value": "Better", "status": "submitted"}],
            },
        },
        {
            "fields": {"prompt": "Q", "response": "A"},
            "metadata": {"model": "m"},
            "responses": [
                {"status": "discarded", "values": {"is_good": {"value": "yes"}}},
                {
                    "status": "submitted",
                    "values": {
                        "is_good": {"value": "no"},
                        "reason": {"value": "Too short."},
                        "corrected_response": {"value": "Better"},
                    },
                },
            ],
        },
        {
            "prompt": "Q",
            "response": "A",
            "model": "m",
            "is_good.responses": ["no"],
            "is_good.responses.status": ["submitted"],
            "reason.responses": ["Too short."],
            "corrected_response.responses": ["Better"],
        },
    ],
    ids=["argilla 2", "argilla 1", "argilla data set"],
)
def test_submitted_responses_of_argilla_judge_explain_and_correct(row):
    reading = read_row(row)
    [flagged] = reading.reports
    assert "Argilla" in reading.shape
    assert (turns(flagged), flagged.response, flagged.model) == ([("user", "Q")], "A", "m")
    assert (flagged.reason, flagged.correction) == ("Too short.", "Better")


def test_a_record_that_annotators_discarded_is_left_out():
    row = {
        "fields": {"prompt": "Q", "response": "A"},
        "responses": {"is_good": [{"value": "no", "status": "discarded"}]},
    }
    with pytest.raises(LeftOutError, match="discarded"):
        read_row(row)


@pytest.mark.parametrize(
    "row",
    [
        {
            "input": [USER],
            "output": {"role": "assistant", "content": "Bad"},
            "scores": [{"name": "user-feedback", "value": 0, "comment": "Rude."}],
        },
        {"input": {"messages": [USER]}, "output": "Bad", "sessionId": "s", "user-feedback": [0], "comment": "Rude."},
        {
            "input": json.dumps([USER]),
            "output": json.dumps({"choices": [{"message": ANSWER}]}),
            "traceId": "t",
            "scores": json.dumps([{"name": "user-feedback", "value": "-1", "comment": "Rude."}]),
        },
    ],
)
def test_a_bad_score_of_langfuse_flags_the_output(row):
    reading = read_row(row)
    [flagged] = reading.reports
    assert "Langfuse" in reading.shape
    assert (turns(flagged), flagged.response, flagged.reason) == ([("user", "Hi")], "Bad", "Rude.")


def test_the_expected_output_of_langfuse_corrects():
    row = {"input": "Q", "output": "Bad", "expectedOutput": {"content": "Good"}, "scores": {"correctness": 0}}
    flagged = one(row, ImportOptions(columns={"is_good": "correctness"}))
    assert (flagged.correction, flagged.category) == ("Good", None)
    assert one(row, ImportOptions(columns={"is_good": "scores.correctness"})).correction == "Good"


def test_columns_are_mapped_by_name_and_by_path():
    row = {"Frage": "Q", "result": {"text": "A"}, "Label": "bad", "why": "Wrong."}
    columns = {"prompt": "Frage", "response": "result.text", "is_good": "label", "reason": "why"}
    flagged = one(row, ImportOptions(columns=columns))
    assert (turns(flagged), flagged.response, flagged.reason) == ([("user", "Q")], "A", "Wrong.")


def test_rows_inside_of_an_object_are_found():
    assert unwrapped({"data": [SINGLE, PAIR], "meta": {"page": 1}}) == [SINGLE, PAIR]
    assert unwrapped({"rows": [{"row_idx": 0, "row": SINGLE}], "features": []}) == [SINGLE]
    assert unwrapped(SINGLE) == [SINGLE]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"response": "x", "is_safe": False}, "prompt"),
        ({"prompt": "x", "response": None, "is_safe": False}, "response"),
        ({**SINGLE, "is_safe": "perhaps"}, "is_safe"),
        ({**SINGLE, "prompt": 7}, "prompt"),
        ({**SINGLE, "prompt": "x\x00"}, "prompt"),
        ({**SINGLE, "category": "???"}, "category"),
        ({**SINGLE, "category": 5}, "category"),
        ({**SINGLE, "severity": "extreme"}, "severity"),
        ({**SINGLE, "reason": 5}, "reason"),
        ({**PAIR, "response_1": ""}, "response_1"),
        ({**PAIR, "is_response_0_safe": "perhaps"}, "is_response_0_safe"),
        ({"prompt": "x", "response": ["y"]}, "response"),
        ({"prompt": "x", "response": ["y", 1]}, "response.1"),
        ({"prompt": "x", "chosen": "y"}, "rejected"),
        ({"prompt": "x", "response_0": "a", "response_1": "b", "better_response_id": 7}, "better_response_id"),
        ({"messages": [USER, {"role": "wizard", "content": "x"}], "is_bad": True}, "messages.1"),
        ({"messages": [ANSWER], "is_bad": True}, "messages"),
    ],
    ids=repr,
)
def test_a_field_that_cannot_be_read_is_named(row, field):
    with pytest.raises(RowError) as error:
        read_row(row)
    assert error.value.field == field


def test_columns_of_no_shape_are_unknown():
    with pytest.raises(UnknownShapeError):
        read_row({"a": 1, "b": 2})


def test_ids_are_derived_from_the_content():
    assert one(SINGLE).id == one(dict(reversed(SINGLE.items()))).id
    assert one(SINGLE).id != one({**SINGLE, "correction": "Better not."}).id


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = sorted(
    {*SINGLE, *PAIR, *HH, *WILDCHAT, "reason", "category", "severity", "correction", "checks", "scores", "fields"}
    | {"responses", "completions", "input", "output", "preferred_output", "non_preferred_output", "history", "system"}
)


@given(st.dictionaries(st.sampled_from(names), values))
def test_any_row_is_taken_left_out_or_refused_by_field(row):
    try:
        flagged = list(flagged_in(row, WRONG))
    except RowError:
        return
    assert len(flagged) <= 3
    assert all(decode(report.encode(), max_bytes=10**9) == report for report in flagged)


def test_the_page_lists_every_name_of_a_column():
    page = (Path(__file__).parents[4] / "docs" / "import.md").read_text()
    for column, names_of in COLUMNS.items():
        [line] = [line for line in page.splitlines() if line.startswith(f"| `{column}`:")]
        assert line.endswith(f"| {', '.join(f'`{name}`' for name in names_of)} |")
