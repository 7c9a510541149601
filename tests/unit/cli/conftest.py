"""The command line on the store of the test, in this process: directly, and over the API of a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from daemon.cli import app
from daemon.store import Store
from tests.fixtures.api import serving
from tests.fixtures.cli import Command
from tests.fixtures.stores import url_of

BOTH_WAYS = pytest.mark.parametrize("erratad", ["local", "remote"], indirect=True)
"""For tests of commands that work on the store and over the API."""


@pytest.fixture(autouse=True)
def no_contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the contexts of the person who runs it."""
    monkeypatch.setenv("ERRATAD_CONTEXTS", str(tmp_path / "contexts.yaml"))


@pytest.fixture
def config_file(tmp_path: Path, sqlite_store: Store) -> Path:
    path = tmp_path / "erratad.yaml"
    values = {
        "data_dir": str(tmp_path / "var"),
        "model": {"path": str(tmp_path)},
        "store": {"url": url_of(sqlite_store)},
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def erratad(request: pytest.FixtureRequest, config_file: Path) -> Iterator[Command]:
    """Runs a command in this process: on the store of the test, or with the parameter `remote` over the API."""

    def runner(**environment: str) -> Command:
        def run(*arguments: str, **options: Any) -> Result:
            return CliRunner(env=environment).invoke(app, list(arguments), **options)

        return run

    if getattr(request, "param", "local") == "local":
        yield runner(ERRATAD_CONFIG=str(config_file))
        return
    store: Store = request.getfixturevalue("sqlite_store")
    with serving(store, config_file) as url:
        yield runner(ERRATAD_SERVER=url)
