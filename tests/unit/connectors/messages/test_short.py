"""The short form: what it is read as, what is refused, and what the full form may carry of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from connectors.messages import AWAITED, EXAMPLES, FlaggedResponse, MessageRejected, Rating, decode, json_schema
from tests.fixtures.config import flagged

VALIDATOR = Draft202012Validator(json_schema())


def read(**values: Any) -> FlaggedResponse:
    """The message as it is read, and read again as it is stored. The published schema takes it, too."""
    message = decode(json.dumps(values).encode())
    assert FlaggedResponse.model_validate(message.model_dump(mode="json", exclude_none=True)) == message
    assert VALIDATOR.is_valid(values)
    return message


def whole(**more: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(flagged(id="whole", reason="").encode())
    return {**{name: one for name, one in values.items() if name != "reason"}, **more}


def test_a_completion_and_a_thumb_are_enough() -> None:
    message = read(completion_id="chatcmpl-1", rating="down")
    assert message.is_awaited
    assert (message.completion_id, message.rating, message.model) == ("chatcmpl-1", Rating.DOWN, AWAITED)
    assert (message.reason, message.correction, message.follow_up) == ("", None, None)


def test_comment_edit_and_follow_up_are_reason_correction_and_follow_up() -> None:
    message = read(completion_id="c", comment="wrong town", edit="Canberra.", follow_up="No, the capital.")
    assert (message.reason, message.correction, message.follow_up) == ("wrong town", "Canberra.", "No, the capital.")


@pytest.mark.parametrize("name", ["response_id", "generation_id"])
def test_the_completion_may_have_its_other_names(name: str) -> None:
    assert read(**{name: "resp-1", "rating": "down"}).completion_id == "resp-1"


@pytest.mark.parametrize("up", ["up", "UP", "thumbs_up", "thumbs up", "like", 1, "1", "+1", "\N{THUMBS UP SIGN}"])
def test_ratings_are_taken_as_clients_send_them(up: Any) -> None:
    assert read(completion_id="c", rating=up).rating is Rating.UP


def test_equal_messages_without_an_id_are_one_message_and_others_are_not() -> None:
    first, again = (read(completion_id="c", rating="down", reporter="a") for _ in range(2))
    assert (first.id, first.fingerprint()) == (again.id, again.fingerprint())
    others = [read(completion_id="c", rating="down", reporter="b"), read(completion_id="c", rating="up", reporter="a")]
    assert len({first.id, *(one.id for one in others)}) == 3


def test_model_is_ignored_and_every_other_field_is_kept() -> None:
    message = read(completion_id="c", rating="down", model="aligned", channel="app", choice=1, metadata={"a": 1})
    assert message.model == AWAITED
    assert message.metadata == {"a": 1, "channel": "app", "choice": 1, "rating": "down"}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "rating, comment, edit or follow_up"),
        ({"comment": " ", "rating": ""}, "rating, comment, edit or follow_up"),
        ({"rating": 0}, "rating"),
        ({"rating": True}, "rating"),
        ({"rating": "five stars"}, "rating"),
        ({"rating": "up", "edit": "Better."}, "rating is up"),
        ({"rating": "up", "checks": {"must_contain": ["x"]}}, "rating is up"),
        ({"comment": 5}, "comment"),
        ({"comment": "x" * 4001}, "comment"),
        ({"edit": ["x"]}, "edit"),
        ({"follow_up": 5}, "follow_up"),
        ({"rating": "down", "choice": -1}, "choice"),
        ({"rating": "down", "choice": True}, "choice"),
        ({"rating": "down", "completion_id": " "}, "completion_id"),
        ({"rating": "down", "completion_id": "c" * 201}, "completion_id"),
        ({"rating": "down", "reporter": ["x"]}, "reporter"),
        ({"rating": "down", "severity": "extreme"}, "severity"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_field(values: dict[str, Any], named: str) -> None:
    with pytest.raises(MessageRejected, match=named):
        decode(json.dumps({"completion_id": "c", **values}).encode())


def test_the_full_form_takes_the_new_fields_and_keeps_them_as_they_were_sent() -> None:
    message = read(**whole(rating=-1, comment="wrong town", edit="Canberra."))
    assert not message.is_awaited
    assert (message.rating, message.reason, message.correction) == (Rating.DOWN, "wrong town", "Canberra.")
    assert message.metadata == {"rating": -1, "comment": "wrong town", "edit": "Canberra."}
    named = read(**whole(reason="mine", correction="C", comment="other", edit="E"))
    assert (named.reason, named.correction) == ("mine", "C")


def test_a_full_form_of_before_is_the_same_message_as_ever() -> None:
    """These fields were kept in the metadata, whatever they held."""
    message = read(**whole(rating=4, comment={"text": "x"}, edit=True))
    assert (message.rating, message.reason, message.correction) == (None, "", None)
    assert message.metadata == {"rating": 4, "comment": {"text": "x"}, "edit": True}
    before = flagged(
        id="whole", reason="", messages=whole()["messages"], response=whole()["response"],
        metadata={"rating": "down", "comment": "x", "edit": "y"},
    )  # fmt: skip
    now = read(**{**json.loads(before.encode()), "metadata": {}, "rating": "down", "comment": "x", "edit": "y"})
    assert now.fingerprint() == before.fingerprint()


def test_without_conversation_a_message_must_name_a_completion() -> None:
    values = whole()
    del values["messages"]
    with pytest.raises(MessageRejected, match="messages: Field required"):
        decode(json.dumps(values).encode())
    assert not VALIDATOR.is_valid(values)
    with pytest.raises(MessageRejected, match="completion_id"):
        decode(json.dumps(whole(model=AWAITED)).encode())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_published_examples_are_taken(name: str) -> None:
    assert read(**EXAMPLES[name]["value"]).is_awaited is ("full" not in name)


@pytest.mark.parametrize("bad", [{}, {"rating": "five"}, {"comment": 5}, {"rating": "down", "choice": "x"}])
def test_the_published_schema_refuses_a_short_form_that_says_nothing(bad: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid({"completion_id": "c", **bad})
