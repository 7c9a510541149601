"""Scores of Langfuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from connectors.messages import FlaggedResponse, decode
from daemon.intake.formats.cells import LeftOutError, RowError
from daemon.intake.products.fields import Choices
from daemon.intake.products.langfuse import items
from daemon.intake.products.names import Product
from daemon.intake.products.reading import message_of

FIXTURES = Path(__file__).parents[3] / "fixtures" / "products"
BOOLEAN, LITELLM, JUDGE, WORD, CORRECTION, NAMELESS, TEXT = range(7)
ALIAS = Choices(alias="aligned")


def scores(name: str = "langfuse_scores_v2.json") -> list[Any]:
    return items(json.loads((FIXTURES / name).read_text()))


def read(item: Any, choices: Choices = ALIAS) -> FlaggedResponse:
    return decode(message_of(Product.LANGFUSE, item, choices))


def test_a_score_of_false_is_a_thumb_down_for_the_completion_that_its_metadata_name() -> None:
    flagged = read(scores()[BOOLEAN])
    assert (flagged.completion_id, flagged.is_awaited) == ("chatcmpl-4f1c", True)
    assert (flagged.rating, flagged.reason, flagged.reporter) == ("down", "It named Sydney.", "user-4711")
    assert flagged.occurred_at.isoformat() == "2026-11-20T12:00:00+00:00"
    assert flagged.metadata["score_id"] == "s1"


def test_the_completion_is_found_in_the_name_that_litellm_gives_an_observation() -> None:
    assert (read(scores()[LITELLM]).completion_id, read(scores()[LITELLM]).rating) == ("chatcmpl-5a2d", "up")


def test_a_category_counts_by_its_word_and_a_correction_is_an_edit() -> None:
    assert read(scores()[WORD]).rating == "down"
    assert read(scores()[CORRECTION]).correction == "The capital of Australia is Canberra."


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (JUDGE, "a judge gave it, no user"),
        (NAMELESS, "names no completion"),
        (TEXT, "a text without a rating can be praise or complaint"),
    ],
)
def test_what_is_no_feedback_is_left_out_with_the_reason(number: int, said: str) -> None:
    with pytest.raises(LeftOutError, match=said):
        read(scores()[number])


def test_the_third_version_of_the_api_and_the_blob_export_say_the_same() -> None:
    new, old = scores("langfuse_scores_v3.json"), scores()
    for one, other in zip(new, (old[BOOLEAN], old[LITELLM], old[CORRECTION]), strict=True):
        found, known = read(one), read(other)
        assert (found.completion_id, found.rating, found.reason, found.correction, found.metadata["trace_id"]) == (
            known.completion_id,
            known.rating,
            known.reason,
            known.correction,
            known.metadata["trace_id"],
        )
    row = read(json.loads((FIXTURES / "langfuse_blob_scores.jsonl").read_text()))
    assert (row.completion_id, row.rating, row.reason) == ("chatcmpl-4f1c", "down", "It named Sydney.")
    assert row.occurred_at == read(old[BOOLEAN]).occurred_at


def test_a_whole_trace_gives_a_report_in_the_full_form() -> None:
    [score] = scores("langfuse_trace.json")
    flagged = read(score)
    assert [one.role for one in flagged.messages] == ["system", "user"]
    assert (flagged.response, flagged.model) == ("The capital of Australia is Sydney.", "aligned-g000017")
    assert (flagged.completion_id, flagged.is_awaited, flagged.reporter) == ("chatcmpl-4f1c", False, "user-4711")


def test_of_several_answers_in_a_trace_the_score_must_name_one() -> None:
    [score] = scores("langfuse_trace.json")
    trace = score["trace"]
    trace["observations"].append({**trace["observations"][1], "id": "o2", "output": "Perth."})
    with pytest.raises(LeftOutError, match="several answers"):
        read(score)
    assert read({**score, "observationId": "o2"}).response == "Perth."
    trace["observations"][1]["model"] = "gpt-x"
    with pytest.raises(LeftOutError, match="another model"):
        read({**score, "observationId": "o1"})


@pytest.mark.parametrize(
    ("value", "good_from", "rating"),
    [(0, None, "down"), (-1, None, "down"), (1, None, "up"), (3, 4, "down"), (4, 4, "up"), (0.5, 0.4, "up")],
)
def test_numbers_are_thumbs(value: float, good_from: float | None, rating: str) -> None:
    score = {**scores()[LITELLM], "value": value}
    assert read(score, Choices(alias="aligned", good_from=good_from)).rating == rating


def test_a_number_between_says_neither_without_a_bound() -> None:
    with pytest.raises(LeftOutError, match="good_from"):
        read({**scores()[LITELLM], "value": 3})
    with pytest.raises(LeftOutError, match="not a number"):
        read({**scores()[LITELLM], "value": float("inf")})


def test_only_the_named_scores_are_feedback() -> None:
    score = {**scores()[BOOLEAN], "name": "helpful"}
    with pytest.raises(LeftOutError, match="'helpful' is not feedback"):
        read(score)
    assert read(score, Choices(alias="aligned", scores=frozenset({"helpful"}))).rating == "down"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": None}, "id: is missing"),
        ({"timestamp": 5}, "timestamp: must be a text"),
        ({"comment": ["x"]}, "comment: must be a text"),
        ({"trace": "x"}, "trace: must be an object"),
        ({"subject": "x"}, "subject: must be an object"),
    ],
)
def test_a_wrong_field_is_named_with_its_path(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RowError) as caught:
        read({**scores()[BOOLEAN], **change})
    assert str(caught.value) == said


def test_documents_of_every_kind_are_opened() -> None:
    trace = {"id": "t", "observations": [], "scores": [{"id": "s"}, 7]}
    assert items([trace, {"id": "s2"}]) == [{"id": "s", "trace": {"id": "t", "observations": []}}, 7, {"id": "s2"}]
    assert items(7) == [7]
