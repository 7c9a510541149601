"""The command line on the store of the test, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from daemon.cli import app
from daemon.store import Store
from tests.fixtures.cli import Command
from tests.fixtures.stores import url_of


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
def erratad(config_file: Path) -> Command:
    """Runs a command on the store of the test, in this process."""

    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner(env={"ERRATAD_CONFIG": str(config_file)}).invoke(app, list(arguments), **options)

    return run
