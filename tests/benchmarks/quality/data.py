"""Readers of the public data sets that the measurements use; none of their text is part of erratad."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.errors import ConfigError

ORIGINS: Mapping[str, str] = {
    "promptinject.json": "PromptInject by Agency Enterprise (MIT): base prompts, attacks and rogue strings",
    "advbench.jsonl": "AdvBench (MIT), rows of prompt",
    "xstest.jsonl": "XSTest (CC-BY-4.0), rows of prompt and label",
    "pku_saferlhf.jsonl": "PKU-SafeRLHF (CC-BY-NC-4.0), rows of prompt and response = [safer, less safe]",
    "alpaca_seed_tasks.jsonl": "self-instruct seed tasks (Apache-2.0), rows of instruction and instances",
    "svamp.jsonl": "SVAMP (MIT), rows of Body, Question and Answer",
    "ifeval_single.jsonl": "IFEval (Apache-2.0), rows of prompt, instruction_id_list and kwargs",
}
"""File name, and where it comes from."""


@dataclass(frozen=True, slots=True)
class PublicData:
    """A folder with the files of `ORIGINS`."""

    folder: Path

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a JSONL file.

        Raises:
            ConfigError: naming the file and what belongs there.
        """
        lines = self._text(name).split("\n")
        try:
            return [json.loads(line) for line in lines if line.strip()]
        except ValueError as exc:
            raise ConfigError(f"{self.folder / name} is not JSONL: {exc}") from exc

    def document(self, name: str) -> dict[str, Any]:
        """A JSON file; raises ConfigError like `rows`."""
        try:
            document: dict[str, Any] = json.loads(self._text(name))
        except ValueError as exc:
            raise ConfigError(f"{self.folder / name} is not JSON: {exc}") from exc
        return document

    def _text(self, name: str) -> str:
        path = self.folder / name
        try:
            return path.read_text(encoding="utf-8")
        except OSError as exc:
            raise ConfigError(f"{path} cannot be read ({exc.strerror}); put there: {ORIGINS[name]}") from exc
