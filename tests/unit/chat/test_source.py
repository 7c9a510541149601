"""Where the chat template of a model is found: in vLLM's order, alike with a tokenizer and without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.chat.source import own_template, template_source
from daemon.config.chat import ChatConfig
from daemon.errors import ChatTemplateError
from tests.fixtures.chat import CHATML, byte_level


def folder_with(folder: Path, files: dict[str, Any]) -> Path:
    for name, value in files.items():
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


PROCESSOR = {"preprocessor_config.json": {"image_processor_type": "X"}}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"chat_template.jinja": "file"}, "file"),
        ({"chat_template.json": {"chat_template": "processor"}}, "processor"),
        ({"chat_template.jinja": "file", "chat_template.json": {"chat_template": "stray"}}, "file"),
        ({**PROCESSOR, "chat_template.jinja": "file"}, "file"),
        (
            {**PROCESSOR, "chat_template.jinja": "file", "chat_template.json": {"chat_template": "processor"}},
            "processor",
        ),
        (
            {"processor_config.json": {"chat_template": "first"}, "chat_template.json": {"chat_template": "second"}},
            "first",
        ),
        ({"processor_config.json": {}, "chat_template.jinja": "file"}, "file"),
    ],
)
def test_the_template_is_the_one_that_vllm_takes(tmp_path: Path, files: dict[str, Any], found: str) -> None:
    folder_with(tmp_path, {"tokenizer_config.json": {}, **files})
    assert own_template(tmp_path) == found

    tokenizer = byte_level(files.get("chat_template.jinja", ""), CHATML)
    if "chat_template.jinja" not in files:
        tokenizer.chat_template = None
    tokenizer.name_or_path = str(tmp_path)
    assert template_source(tokenizer, ChatConfig()) == found


def test_files_that_hold_no_template_or_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder_with(tmp_path, {"tokenizer_config.json": {}, "chat_template.json": []})
    with pytest.raises(ChatTemplateError, match="has no chat template"):
        own_template(tmp_path)
    folder_with(tmp_path, {"chat_template.json": "{"})
    with pytest.raises(ChatTemplateError, match=r"cannot read chat_template\.json"):
        own_template(tmp_path)
