"""Messages reach the template in vLLM's form: compared with the installed vLLM, and with fixed values."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from daemon.chat.conversation import as_vllm, takes_parts
from tests.fixtures.required import unavailable

TEXTS = "{% for m in messages %}{{ m.content }}{% endfor %}"
PARTS = "{% for m in messages %}{% for part in m['content'] %}{{ part.text }}{% endfor %}{% endfor %}"
LATER = (
    "{% set rest = messages[1:] %}{% for m in rest %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c.text }}{% endfor %}{% endif %}{% endfor %}"
)
MACRO = (
    "{% macro show(c) %}{% for part in c %}{{ part.text }}{% endfor %}{% endmacro %}"
    "{% for m in messages %}{{ show(m.content) }}{% endfor %}"
)
OTHER_MACRO = (
    "{% macro show(content) %}{% for part in content %}{{ part }}{% endfor %}{% endmacro %}"
    "{% for m in messages %}{{ show(m.role) }}{{ m.content }}{% generation %}x{% endgeneration %}{% endfor %}"
)
NAMED = "{% for m in messages %}{% set content = m.content %}{% for c in content %}{{ c.text }}{% endfor %}{% endfor %}"
DEVELOPER = "{% for m in messages %}{{ 'developer' if m.role == 'system' else m.role }}{{ m.content }}{% endfor %}"
TEMPLATES = {TEXTS: False, PARTS: True, LATER: True, MACRO: True, OTHER_MACRO: False, NAMED: True, DEVELOPER: False}


def called(arguments: Any, **call: Any) -> dict[str, Any]:
    function = {"name": "lookup"} if arguments is None else {"name": "lookup", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": function, **call}]}


QUESTION = {"role": "user", "content": "Weather in Oslo?"}
RESULT = {"role": "tool", "tool_call_id": "1", "content": '{"t": 4}'}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [QUESTION],
    *(
        [QUESTION, called(arguments), RESULT]
        for arguments in ('{"city": "Oslo"}', "[1]", "not JSON", "", None, {"a": 1})
    ),
    [QUESTION, called("{}", type="custom")],
    [QUESTION, {"role": "assistant", "content": "4", "tool_calls": [], "reasoning": "cold"}, QUESTION],
    [
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": None},
        {"role": "user", "content": "", "name": "b"},
    ],
    [{"role": "user", "content": [{"type": "text", "text": "a"}, "b", {"type": "text", "text": ""}]}],
    [{"role": "tool", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "c"}], "tool_call_id": "x"}],
    [{"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot"}]}, QUESTION],
    [{"role": "developer", "content": "Be brief", "tools": [{"a": 1}]}, QUESTION],
    [{"role": "system", "content": "a"}, QUESTION, {"role": "developer", "content": "b"}, QUESTION],
    [{"role": "developer", "content": [{"type": "text", "text": "a"}]}, {"role": "system", "content": "b"}, QUESTION],
    [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, QUESTION],
    [{"role": "function", "name": "f", "content": "1"}],
]


def mine(messages: list[dict[str, Any]], template: str) -> Any:
    try:
        return as_vllm(messages, template)
    except ValueError:
        return None


def test_the_form_is_that_of_the_installed_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        unavailable("vLLM is not installed")
    case = json.dumps({"templates": list(TEMPLATES), "conversations": CONVERSATIONS})
    command = [sys.executable, "-m", "tests.fixtures.vllm_reading"]
    done = subprocess.run(command, input=case, capture_output=True, text=True, check=True, timeout=120)

    theirs = json.loads(done.stdout.splitlines()[-1])

    assert theirs == [[mine(messages, template) for messages in CONVERSATIONS] for template in TEMPLATES]


@pytest.mark.parametrize(("template", "parts"), TEMPLATES.items())
def test_parts_are_passed_to_templates_that_go_through_them(template: str, parts: bool) -> None:
    assert takes_parts(template) is parts


def test_arguments_of_tool_calls_are_objects() -> None:
    def arguments(given: Any) -> Any:
        return as_vllm([called(given)], TEXTS)[0]["tool_calls"][0]["function"]["arguments"]

    assert arguments('{"city": "Oslo"}') == {"city": "Oslo"}
    assert [arguments(given) for given in ("[1]", "not JSON", "", None)] == [{}, {}, {}, {}]


def test_what_is_no_text_is_refused() -> None:
    for content in ([{"type": "image_url", "image_url": {"url": "data:"}}], [7], [{"type": "text", "text": None}]):
        with pytest.raises(ValueError, match="is no text"):
            as_vllm([{"role": "user", "content": content}], TEXTS)
