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
        return amended(read_template(config.template), config)
    folder = Path(tokenizer.name_or_path)
    text = _of_processor(folder) if _has_processor(folder) else None
    if text is None:
        try:
            text = tokenizer.get_chat_template()
        except ValueError as exc:
            text = _of_processor(folder)
            if text is None:
                raise ChatTemplateError(f"the model has no chat template; {_NEXT_STEP}") from exc
    return amended(text, config)


def _has_processor(folder: Path) -> bool:
    """Whether the model takes more than text. vLLM then reads the processor's template before the tokenizer's."""
    return any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json"))


def _of_processor(folder: Path) -> str | None:
    """The template in the files of a processor."""
    for name in ("processor_config.json", "chat_template.json"):
        if (folder / name).is_file() and isinstance(found := _read_json(folder / name).get("chat_template"), str):
            return found
    return None


def _of_tokenizer(folder: Path) -> str | None:
    if (file := folder / "chat_template.jinja").is_file():
        return read_template(file)
    found = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # named templates
        found = {one["name"]: one["template"] for one in found}.get("default")
    return found if isinstance(found, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ChatTemplateError(f"{path.parent}: cannot read {path.name}: {exc}") from exc
    return found if isinstance(found, dict) else {}


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
    sources = (_of_processor, _of_tokenizer) if _has_processor(model_path) else (_of_tokenizer, _of_processor)
    for source in sources:
        if (found := source(model_path)) is not None:
            return found
    raise ChatTemplateError(f"{model_path} has no chat template; {_NEXT_STEP}")


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
