"""The callback of a LiteLLM proxy, on a call that was recorded. LiteLLM itself runs in `tests/services`."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.fixtures.litellm import RECORDED

CALL: dict[str, Any] = json.loads(RECORDED.read_text())


@pytest.fixture
def stamped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The callback's answer to the recorded call, with some fields of the key and the message changed."""
    logger = ModuleType("litellm.integrations.custom_logger")
    logger.CustomLogger = object  # type: ignore[attr-defined]
    for name, module in (
        ("litellm", ModuleType("litellm")),
        ("litellm.integrations", ModuleType("litellm.integrations")),
        ("litellm.integrations.custom_logger", logger),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "connectors.litellm", raising=False)
    callback = importlib.import_module("connectors.litellm").feedback
    monkeypatch.delitem(sys.modules, "connectors.litellm")  # the stand-in must not stay behind

    def call(key: dict[str, Any] | None = None, **message: Any) -> Any:
        who = SimpleNamespace(**{**CALL["key"], **(key or {})})
        return asyncio.run(callback.async_pre_call_hook(who, None, {**CALL["data"], **message}, CALL["call_type"]))

    return call


def test_the_recorded_call_gets_the_recorded_answer(stamped: Any) -> None:
    assert stamped() == CALL["returned"]


def test_a_call_of_another_route_is_left_alone(stamped: Any) -> None:
    assert stamped({"request_route": "/v1/chat/completions"}) == CALL["data"]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ({}, "ann@example.com"),
        ({"user_id": None}, "anns-laptop"),
        ({"user_id": "default_user_id"}, "anns-laptop"),
        ({"user_id": "default_user_id", "key_alias": None}, "default_user_id"),
        ({"user_id": None, "key_alias": None}, "litellm"),
        ({"user_id": "ann/bob"}, "ann%2Fbob"),
        ({"user_id": "ann%2Fbob"}, "ann%252Fbob"),
    ],
)
def test_the_reporter_stands_below_the_keys_user(stamped: Any, key: dict[str, Any], name: str) -> None:
    assert stamped(key)["reporter"] == f"{name}/user-4711"
    assert stamped(key, reporter=None)["reporter"] == name


def test_the_keys_team_is_the_tenant(stamped: Any) -> None:
    assert stamped(tenant="another")["tenant"] == "support"
    assert stamped({"team_alias": None}, tenant="another")["tenant"] == "6f1c"
    assert stamped({"team_alias": None, "team_id": None}, tenant="another")["tenant"] == "another"
