"""What intake refuses because of the configuration: on Kafka it becomes a dead letter that says so."""

from __future__ import annotations

import json

import pytest

from connectors.messages import MessageRejected, Rejection
from daemon.config.intake import IntakeConfig
from daemon.intake.refusals import NO_RECORD, decoded
from daemon.store import Store
from tests.fixtures.life import life
from tests.unit.intake.test_stage import Topic, stage_of

THUMB = json.dumps({"completion_id": "chatcmpl-1", "rating": "down"}).encode()


def test_a_short_form_needs_servers_that_remember() -> None:
    assert decoded(THUMB, IntakeConfig(), exchanges=True).is_awaited
    with pytest.raises(MessageRejected) as info:
        decoded(THUMB, IntakeConfig(), exchanges=False)
    assert (info.value.reason, info.value.detail) == (Rejection.NO_RECORD, NO_RECORD)


def test_without_them_it_becomes_a_dead_letter_that_says_so(sqlite_store: Store) -> None:
    topic = Topic(THUMB)
    stage_of(topic, sqlite_store).step(life())
    assert [(letter.reason, letter.detail) for letter in topic.letters] == [(Rejection.NO_RECORD, NO_RECORD)]
    assert topic.waiting == []
