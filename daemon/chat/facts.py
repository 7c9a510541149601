"""What the daemon must know of the served model's chat template. It has no tokenizer: a child process finds it out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from daemon.artifacts.files import write_atomically
from daemon.chat.preparation import Preparation
from daemon.chat.reader import Reader
from daemon.config.chat import ChatConfig
from daemon.errors import ConfigError

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
)
_CALL_OF_TODAY = b"strftime_now"


class Prompt(BaseModel):
    """A conversation, prepared, and the token ids of its prompt as the trainer has them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    messages: tuple[Mapping[str, Any], ...]
    ids: tuple[int, ...]


class ChatFacts(BaseModel):
    """`probes`: prompts that a server must make of the same token ids. `end`: the token that ends an answer.

    `dated`: the prompts show the day on which they are made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preparation: Preparation
    probes: tuple[Prompt, ...]
    end: int
    end_text: str
    dated: bool


def chat_facts(model_path: Path, chat: ChatConfig, *, cache_dir: Path, trust_remote_code: bool = False) -> ChatFacts:
    """The facts of one model under one section `chat`. They are kept in `cache_dir`, because a child takes seconds.

    Raises:
        ConfigError: if the model's tokenizer or chat template is unusable.
        ChatReaderError: if the child fails otherwise.
    """
    if not model_path.is_dir():
        raise ConfigError(f"model.path: {model_path} cannot be read: no such folder")
    path = cache_dir / f"{_key(model_path, chat)}.json"
    try:
        return ChatFacts.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        pass
    with Reader(model_path=model_path, chat=chat, trust_remote_code=trust_remote_code) as reader:
        facts = ChatFacts.model_validate(reader.facts)
    cache_dir.mkdir(parents=True, exist_ok=True)
    for outdated in cache_dir.glob("*.json"):
        outdated.unlink(missing_ok=True)
    write_atomically(path, facts.model_dump_json(indent=2).encode())
    return facts


def _key(model_path: Path, chat: ChatConfig) -> str:
    digest = hashlib.sha256()
    for part in (version("erratad"), version("transformers"), chat.model_dump_json()):
        digest.update(part.encode() + b"\0")
    files = [model_path / name for name in _TOKENIZER_FILES]
    for file in files if chat.template is None else [*files, chat.template]:
        content = file.read_bytes() if file.is_file() else b""
        digest.update(file.name.encode() + content + b"\0")
        if _CALL_OF_TODAY in content:
            digest.update(time.strftime("%Y-%m-%d").encode())
    return digest.hexdigest()[:32]
