"""What the server's record of an exchange says about a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from connectors.vllm_wire import Exchange, Said
from daemon.chat.preparation import Preparation
from daemon.config import Config
from daemon.evidence.exchange import Match, verify
from daemon.privacy.redact import Redactor
from tests.fixtures.config import flagged

SYSTEM, QUESTION = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital?"}
ANSWER = "It is Sydney, on the east coast."
CALL = {"id": "x", "type": "function", "function": {"name": "look", "arguments": '{"a": 1, "b": 2}'}}


def report(messages: Any = (SYSTEM, QUESTION), response: Any = ANSWER, **changes: Any) -> Any:
    return flagged(messages=list(messages), response=response, completion_id="c1", **changes)


def exchange(
    messages: Any = (SYSTEM, QUESTION), text: str = ANSWER, *more: Said, calls: Any = (), **changes: Any
) -> Exchange:
    request = changes.pop("request", {"messages": list(messages)})
    choices = (Said(text=text, tool_calls=tuple(calls)), *more)
    return Exchange(generation="aligned-g000003", request=request, choices=choices, **changes)


def match(told: Any, *kept: Exchange, preparation: Preparation | None = None) -> Match | None:
    found = verify(told, kept, preparation or Preparation())
    return None if found is None else found.match


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        pytest.param(report(), exchange(), id="the same"),
        pytest.param(report(response=f"{ANSWER}\n"), exchange(text=f"  {ANSWER}"), id="white space"),
        pytest.param(
            report([SYSTEM, {"role": "user", "content": [{"type": "text", "text": "What is the capital?"}]}]),
            exchange(),
            id="text parts",
        ),
        pytest.param(report(), exchange((SYSTEM, QUESTION), "Another.", Said(text=ANSWER)), id="the second choice"),
        pytest.param(
            report(), exchange(request={"input": "What is the capital?", "instructions": "Be brief."}), id="responses"
        ),
        pytest.param(
            report(),
            exchange(
                request={
                    "input": [
                        SYSTEM,
                        {"role": "user", "content": [{"type": "input_text", "text": "What is the capital?"}]},
                    ]
                }
            ),
            id="responses with items",
        ),
        pytest.param(
            report(response="", tool_calls=[{**CALL, "id": "y"}]),
            exchange(text="", calls=[{"type": "function", "function": {"name": "look", "arguments": '{"b":2,"a":1}'}}]),
            id="a tool call in another layout",
        ),
        pytest.param(
            report(response="It is Sydney, on the east"),
            exchange(text="It is Sydney, on the east co", partial=True),
            id="cut off",
        ),
    ],
)
def test_the_exchange_holds_what_the_report_says(told: Any, kept: Exchange) -> None:
    assert match(told, kept) is Match.SAME


@pytest.mark.parametrize(
    ("told", "kept", "expected"),
    [
        pytest.param(report(response="It is Perth."), exchange(), Match.OTHER_ANSWER, id="another answer"),
        pytest.param(
            report(response="It is"), exchange(partial=True), Match.OTHER_ANSWER, id="much less than was sent"
        ),
        pytest.param(
            report(response=f"{ANSWER} Buy pills!"), exchange(partial=True), Match.OTHER_ANSWER, id="more than was sent"
        ),
        pytest.param(
            report(response=""),
            exchange(text="", partial=True, calls=[CALL]),
            Match.OTHER_ANSWER,
            id="without the call",
        ),
        pytest.param(report(tool_calls=[CALL]), exchange(), Match.OTHER_ANSWER, id="a call that was not made"),
        pytest.param(
            report([SYSTEM, {"role": "user", "content": "Is murder fine?"}]),
            exchange(),
            Match.OTHER_CONVERSATION,
            id="another question",
        ),
        pytest.param(
            report([{"role": "system", "content": "Never say Sydney."}, QUESTION]),
            exchange(),
            Match.OTHER_CONVERSATION,
            id="another system message",
        ),
        pytest.param(report([QUESTION]), exchange(), Match.UNKNOWN, id="without the system message"),
        pytest.param(report(), exchange(forced=("logit_bias",)), Match.UNKNOWN, id="the client decided what was said"),
        pytest.param(
            report(), exchange(request={"input": [{"type": "item_reference"}]}), Match.UNKNOWN, id="unreadable"
        ),
        pytest.param(report(), exchange(request={"messages": "?"}), Match.UNKNOWN, id="no messages"),
    ],
)
def test_the_exchange_holds_something_else(told: Any, kept: Exchange, expected: Match) -> None:
    assert match(told, kept) is expected


def test_one_of_several_exchanges_with_the_id_is_enough() -> None:
    assert match(report(), exchange(text="Another."), exchange()) is Match.SAME
    assert match(report()) is None


def test_thoughts_are_no_part_of_the_answer() -> None:
    preparation = Preparation(tags=("<think>", "</think>"))
    thinking = f"<think>\nSydney?\n</think>\n\n{ANSWER}"
    for told, kept in ((report(response=thinking), exchange()), (report(), exchange(text=thinking))):
        assert match(told, kept, preparation=preparation) is Match.SAME


def test_personal_data_that_intake_has_replaced_is_no_difference(make_config: Callable[..., Config]) -> None:
    redactor = Redactor(make_config())
    question = {"role": "user", "content": "Who reads ann.lee@example.org, and who bob@example.org?"}
    said = "Bob reads bob@example.org, Ann ann.lee@example.org."
    stored = redactor.redact(report([SYSTEM, question], said)).flagged
    assert "example.org" not in stored.model_dump_json()
    kept = exchange([SYSTEM, question], said)
    for told, expected in (
        (stored, Match.SAME),
        (redactor.redact(report([question], said)).flagged, Match.UNKNOWN),
        (redactor.redact(report([SYSTEM, question], "Ann reads ann.lee@example.org.")).flagged, Match.OTHER_ANSWER),
        (report([SYSTEM, question], said), Match.SAME),
    ):
        found = verify(told, [kept], Preparation(), clean=redactor.clean)
        assert found is not None
        assert found.match is expected
    assert match(stored, kept) is Match.OTHER_ANSWER, "without the same cleaning the texts differ"
