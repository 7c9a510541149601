"""What the documentation tells people to type: its commands, configurations and code exist and are valid.

The runbook's commands are checked in `test_monitoring`; those of a backup are run in `tests/services/test_backup.py`,
the wheel's in `tests/deploy/test_wheel.py`.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from daemon.cli.app import app
from daemon.config import Config

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")] if page.name != "CHANGELOG.md")
COMMANDS = get_command(app)
MADE_THERE = {"configs/production.yaml", "deploy/compose/secrets"}
"""Files that the reader makes."""


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if language in languages:
            yield block


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command: of the shell's blocks, and inside of lines."""
    lines = [line for block in blocks(page, "sh", "bash") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:erratad|make) [^`\n]+)`", page.read_text())
    for one in (part for line in lines for part in re.split(r";|&&|\$\(", re.sub(r"(^|\s)#.*", "", line))):
        with suppress(ValueError):  # a part of a text in quotes
            yield list(dropwhile(lambda word: re.fullmatch(r"[A-Z_]+=.*", word) is not None, shlex.split(one)))


def of_program(name: str) -> list[Any]:
    """The arguments of each of its commands, once."""
    found = {}
    for page in PAGES:
        for words in commands(page):
            if words and Path(words[0]).name == name:
                found[" ".join(words[1:])] = pytest.param(words[1:], id=f"{page.name}: {' '.join(words[1:])}")
    return list(found.values())


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("words", of_program("erratad"))
def test_a_command_of_the_documentation_exists_with_its_options(words: list[str]) -> None:
    command, known = COMMANDS, {"--help", "-h"} | options_of(COMMANDS)
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in known
        elif found := getattr(command, "commands", {}).get(word):
            command, known = found, known | options_of(found)
        elif hasattr(command, "commands"):
            assert not re.fullmatch(r"[a-z-]+", word), f"there is no command {word}"


@pytest.mark.parametrize("words", of_program("make"))
def test_a_target_of_the_documentation_exists_with_its_variables(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_variable, _ = word.partition("=")
        if is_variable:
            assert f"$({name})" in makefile or f"{name} ?=" in makefile
        else:
            assert re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_of_the_documentation_is_there(page: Path) -> None:
    words = {word for one in commands(page) for word in one}
    named = {word.rstrip("/") for word in words if re.fullmatch(r"(configs|deploy|docs|tests)/[\w./@-]+", word)}
    assert {name for name in named - MADE_THERE if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize(
    "block",
    [pytest.param(block, id=page.name) for page in PAGES for block in blocks(page, "python")],
)
def test_python_of_the_documentation_can_be_compiled(block: str) -> None:
    ast.parse(block)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(values, id=page.name)
        for page in PAGES
        for block in blocks(page, "yaml")
        if isinstance(values := yaml.safe_load(block), dict) and values.keys() <= Config.model_fields.keys()
    ],
)
def test_a_configuration_of_the_documentation_is_valid(values: dict[str, Any]) -> None:
    """A part of one: the model and the sources' tokens are given here where it leaves them open."""
    sources = values.get("intake", {}).get("sources", [])
    names = {one["token"] for one in sources if "token" in one}
    tokens = [{"name": name, "role": "reporter", "token_env": "ANY"} for name in sorted(names)]
    Config.model_validate({"model": {"path": "models/base"}, "http": {"tokens": tokens}, **values})
