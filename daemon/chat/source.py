"""The text of the chat template: the file or the model's own, with the default system message and a fixed date."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from daemon.config.chat import ChatConfig
from daemon.errors import ChatTemplateError

_NEXT_STEP = "take an instruction-tuned model, or name a file in chat.template"
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


def template_source(tokenizer: Any, config: ChatConfig) -> str:
    """The template's text for trainer and server.

    Raises:
        ChatTemplateError: if the file cannot be read, or the model has no template.
    """
    if config.template is not None:
        text = read_template(config.template)
    else:
        try:
            text = tokenizer.get_chat_template()
        except ValueError as exc:
            raise ChatTemplateError(f"the model has no chat template; {_NEXT_STEP}") from exc
    return amended(text, config)


def read_template(path: Path) -> str:
    """Raises ChatTemplateError if the file cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ChatTemplateError(f"chat.template: cannot read {path}: {exc}") from exc


def server_arguments(model_path: Path, config: ChatConfig) -> list[str]:
    """vLLM's arguments for the section `chat`; none if the model's own template is served as it is.

    Raises:
        ChatTemplateError: if the template is needed and cannot be read.
    """
    arguments = []
    if (config.template, config.default_system, config.date) != (None, None, None):
        text = own_template(model_path) if config.template is None else read_template(config.template)
        arguments += ["--chat-template", amended(text, config)]
    if config.kwargs:
        arguments += ["--default-chat-template-kwargs", json.dumps(config.kwargs, ensure_ascii=False)]
    return arguments


def own_template(model_path: Path) -> str:
    """The template in a model's folder. Raises ChatTemplateError if there is none."""
    file = model_path / "chat_template.jinja"
    if file.is_file():
        return read_template(file)
    try:
        found = json.loads((model_path / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError) as exc:
        raise ChatTemplateError(f"{model_path}: cannot read tokenizer_config.json: {exc}") from exc
    if isinstance(found, list):  # named templates
        found = {one["name"]: one["template"] for one in found}.get("default")
    if not isinstance(found, str):
        raise ChatTemplateError(f"{model_path} has no chat template; {_NEXT_STEP}")
    return found


def amended(text: str, config: ChatConfig) -> str:
    """The template with `default_system` and `date` written into it, so that a server needs no other setting."""
    if (day := config.date) is not None:
        text = _TODAY.sub(lambda call: json.dumps(day.strftime(call[2]), ensure_ascii=False), text)
    if config.default_system is not None:
        message = json.dumps({"role": "system", "content": config.default_system}, ensure_ascii=False)
        text = (
            '{% if messages[0]["role"] not in ["system", "developer"] %}'
            f"{{% set messages = [{message}] + messages %}}{{% endif %}}{text}"
        )
    return text
