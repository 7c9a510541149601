"""The key of section `privacy`."""

from __future__ import annotations

import stat
from collections.abc import Callable

import pytest

from daemon.config import Config
from daemon.errors import ConfigError
from daemon.privacy.keys import KEY_FILE, Keys, Purpose


def test_without_a_variable_a_key_is_made_once_and_only_its_owner_reads_it(make_config: Callable[..., Config]) -> None:
    config = make_config()
    first = Keys.of(config).key(Purpose.CERTIFICATE)
    path = config.data_dir / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Keys.of(config).key(Purpose.CERTIFICATE) == first
    assert [one.name for one in config.data_dir.iterdir()] == [KEY_FILE]


def test_the_variable_counts_and_a_short_key_is_refused(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(privacy={"key_env": "PRIVACY"})
    with pytest.raises(ConfigError, match="PRIVACY is not set"):
        Keys.of(config)
    monkeypatch.setenv("PRIVACY", "short")
    with pytest.raises(ConfigError, match=r"privacy\.key_env.*5 characters.*32"):
        Keys.of(config)
    monkeypatch.setenv("PRIVACY", "k" * 32)
    assert len(Keys.of(config).key(Purpose.CERTIFICATE)) == 32
    assert not (config.data_dir / KEY_FILE).exists()


def test_a_broken_key_file_is_named(make_config: Callable[..., Config]) -> None:
    config = make_config()
    config.data_dir.mkdir()
    (config.data_dir / KEY_FILE).write_text("")
    with pytest.raises(ConfigError, match=r"privacy\.key holds no key"):
        Keys.of(config)
