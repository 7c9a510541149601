"""Secrets come from the environment."""

from __future__ import annotations

import pytest

from daemon.config.secret import secret
from daemon.errors import ConfigError


def test_an_unset_secret_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERRATAD_TEST_SECRET", raising=False)
    assert secret(None) is None
    with pytest.raises(ConfigError, match="ERRATAD_TEST_SECRET"):
        secret("ERRATAD_TEST_SECRET")
    monkeypatch.setenv("ERRATAD_TEST_SECRET", "hush")
    assert secret("ERRATAD_TEST_SECRET") == "hush"
