"""Feedback of Open WebUI."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest

from connectors.messages import FlaggedResponse, decode
from daemon.intake.formats.cells import LeftOutError, RowError
from daemon.intake.products.fields import Choices
from daemon.intake.products.names import Product
from daemon.intake.products.open_webui import MAX_TURNS, items
from daemon.intake.products.reading import message_of

FIXTURES = Path(__file__).parents[3] / "fixtures" / "products"
DOWN, UP, OTHER, EDITED, TOOLS, FILES = range(6)
ALIAS = Choices(alias="aligned")


def export() -> list[Any]:
    return list(json.loads((FIXTURES / "open_webui_export.json").read_text()))


def read(item: Any, choices: Choices = ALIAS) -> FlaggedResponse:
    return decode(message_of(Product.OPEN_WEBUI, item, choices))


def history(item: Any) -> dict[str, Any]:
    found: dict[str, Any] = item["snapshot"]["chat"]["chat"]["history"]["messages"]
    return found


def test_a_thumb_down_is_a_report_with_the_conversation_up_to_the_answer() -> None:
    flagged = read(export()[DOWN])
    assert [(one.role, one.text) for one in flagged.messages] == [
        ("system", "Answer in one sentence."),
        ("user", "Hello."),
        ("assistant", "Hello. How can I help?"),
        ("user", "What is the capital of Australia?"),
    ]
    assert flagged.response == "The capital of Australia is Sydney."
    assert (flagged.rating, flagged.reason) == ("down", "Not factually correct: It is Canberra.")
    assert (flagged.category, flagged.follow_up) == ("wrong-fact", "No, that is the largest city.")
    assert (flagged.model, flagged.reporter) == ("aligned", "7d1f5a52-3c1e-4b0a-9a53-0d9f5f1f7c11")
    assert flagged.metadata["feedback_id"] == "f1-0c5a3f4e"
    assert "Ann" not in flagged.model_dump_json()


def test_a_thumb_up_is_kept_as_one() -> None:
    flagged = read(export()[UP])
    assert (flagged.rating, flagged.response, flagged.reason, flagged.category) == ("up", "Paris.", "", None)


def test_an_answer_of_another_model_is_left_out_unless_the_caller_names_it() -> None:
    with pytest.raises(LeftOutError, match="another model than aligned: other-model"):
        read(export()[OTHER])
    assert read(export()[OTHER], Choices(alias="aligned", models=frozenset({"other-model"}))).model == "aligned"


@pytest.mark.parametrize(("name", "model"), [("aligned-g000017", "aligned-g000017"), ("aligned-g000017-s75",) * 2])
def test_a_generation_keeps_its_name(name: str, model: str) -> None:
    item = export()[UP]
    item["data"]["model_id"] = name
    assert read(item).model == model


def test_a_workspace_model_counts_by_its_base_model() -> None:
    assert read(export()[EDITED]).model == "aligned"


def test_a_changed_answer_is_reported_as_the_model_gave_it() -> None:
    flagged = read(export()[EDITED])
    assert (flagged.response, flagged.correction, flagged.category) == ("Toronto.", None, "style")


def test_a_change_is_a_correction_only_if_the_caller_says_so() -> None:
    flagged = read(export()[EDITED], Choices(alias="aligned", edits=True))
    assert (flagged.response, flagged.correction, flagged.rating) == ("Toronto.", "Ottawa.", None)


def test_a_thumb_up_for_a_changed_answer_is_left_out() -> None:
    item = export()[EDITED]
    item["data"]["rating"] = 1
    with pytest.raises(LeftOutError, match="changed afterwards"):
        read(item)


def test_calls_of_tools_become_messages() -> None:
    flagged = read(export()[TOOLS])
    assert [one.role for one in flagged.messages] == ["user", "assistant", "tool"]
    calls = flagged.messages[1].tool_calls
    assert calls is not None
    assert calls[0]["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert (flagged.messages[2].tool_call_id, flagged.messages[2].text) == ("call_1", "rain, 12 C")
    assert (flagged.response, flagged.tool_calls) == ("It is sunny.", None)


def test_an_answer_that_is_a_call_of_a_tool_is_reported_as_one() -> None:
    item = export()[TOOLS]
    del history(item)["a1"]["output"][1:]
    flagged = read(item)
    assert flagged.tool_calls is not None
    assert (flagged.response, flagged.tool_calls[0]["id"]) == ("", "call_1")


def test_an_answer_from_files_is_shown_and_not_trained_on() -> None:
    flagged = read(export()[FILES])
    assert flagged.not_trainable == "message 1 holds a file"
    assert "1 June" not in flagged.messages[0].text


def test_older_thoughts_are_cut_out_and_older_tool_calls_are_left_out() -> None:
    item = export()[UP]
    history(item)["a1"]["content"] = '<details type="reasoning" done="true">\n> Hm.\n</details>\nParis.'
    assert read(item).response == "Paris."
    history(item)["a1"]["content"] = '<details type="tool_calls" done="true">\n</details>\nParis.'
    with pytest.raises(LeftOutError, match="tool calls"):
        read(item)


def test_a_webhook_is_left_out_with_the_way_to_go_on() -> None:
    event = json.loads((FIXTURES / "open_webui_webhook.json").read_text())
    with pytest.raises(LeftOutError, match=r"docs/open-webui\.md"):
        read(event)


def test_the_same_item_has_the_same_id_and_another_comment_another_one() -> None:
    first, later, other = export()[DOWN], export()[DOWN], export()[DOWN]
    later["updated_at"] += 60
    later["data"]["tags"] = ["cities"]
    other["data"]["comment"] = "No."
    assert read(first).id == read(later).id != read(other).id


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda item: item.pop("type"), "type: is missing"),
        (lambda item: item.update(created_at="now"), "created_at: must be a whole number"),
        (lambda item: item.update(created_at=True), "created_at: must be a whole number"),
        (lambda item: item["meta"].update(message_id="zz"), "meta.message_id: names no message"),
        (lambda item: item["meta"].update(message_id="u1"), "meta.message_id: names no answer"),
        (lambda item: item.update(data=[1]), "data: must be an object"),
        (lambda item: item["data"].update(comment=[1]), "data.comment: must be a text"),
        (lambda item: history(item)["u2"].update(content=7), "messages.u2.content: must be a text"),
        (lambda item: history(item)["a2"].update(output=["x"]), "messages.a2.output.0: must be an object"),
        (lambda item: history(item)["u1"].update(parentId="u2"), "stands in a circle"),
        (lambda item: history(item)["u1"].update(parentId="zz"), "'zz' is missing"),
    ],
)
def test_a_wrong_field_is_named_with_its_path(change: Any, said: str) -> None:
    item = export()[DOWN]
    change(item)
    with pytest.raises(RowError) as caught:
        read(item)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda item: item.update(type="note"), "its type is 'note'"),
        (lambda item: item["data"].update(rating=None), "neither a thumb up nor a thumb down"),
        (lambda item: item.update(snapshot=None), "holds no conversation"),
    ],
)
def test_an_item_without_feedback_is_left_out_with_the_reason(change: Any, said: str) -> None:
    item = export()[DOWN]
    change(item)
    with pytest.raises(LeftOutError, match=said):
        read(item)


def test_a_very_long_conversation_and_unclosed_blocks_cost_little() -> None:
    item = export()[UP]
    turns = history(item)
    for number in range(MAX_TURNS + 1):
        above = f"x{number - 1}" if number else None
        turns[f"x{number}"] = {"role": "user", "content": "", "parentId": above}
    turns["u1"]["parentId"] = f"x{MAX_TURNS}"
    with pytest.raises(RowError, match="too far up"):
        read(item)
    item = export()[UP]
    history(item)["a1"]["content"] = '<details type="reasoning"' * 30_000
    with pytest.raises(LeftOutError):
        read(item)


def test_an_export_a_page_and_a_single_item_are_read() -> None:
    one = export()[DOWN]
    assert items([one, 7]) == [one, 7]
    assert items({"items": [one], "total": 1}) == [one]
    assert items(one) == [one]


def test_the_function_of_the_page_sends_the_feedback_that_an_event_names(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[4] / "docs" / "open-webui.md").read_text()
    [text] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    sent: list[httpx.Request] = []
    transport = httpx.MockTransport(lambda request: sent.append(request) or httpx.Response(202))  # type: ignore[func-returns-value]
    client = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda timeout: client(timeout=timeout, transport=transport))

    async def get(feedback_id: str) -> Any:
        item = next((one for one in export() if one["id"] == feedback_id), None)
        return item and SimpleNamespace(model_dump=lambda: item)

    module = ModuleType("open_webui.models.feedbacks")
    module.Feedbacks = SimpleNamespace(get_feedback_by_id=get)  # type: ignore[attr-defined]
    for name in ("open_webui", "open_webui.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names: dict[str, Any] = {}
    exec(text, names)  # the operator's copy of it
    function = names["Event"]()
    function.valves = function.Valves(token="t0ken")
    event = json.loads((FIXTURES / "open_webui_webhook.json").read_text())
    for one in (event, {**event, "event": "feedback.deleted"}, {**event, "subject": {"id": "gone"}}):
        asyncio.run(function.event(one))
    [request] = sent
    assert (request.url.path, request.headers["Authorization"]) == ("/v1/feedback/open-webui", "Bearer t0ken")
    assert read(json.loads(request.content)).reason == "Not factually correct: It is Canberra."
