"""Secrets are masked where a configuration is shown."""

from __future__ import annotations

from collections.abc import Callable

import yaml

from daemon.config import Config
from daemon.config.masking import MASK, masked


def test_no_secret_survives_masking(make_config: Callable[..., Config]) -> None:
    config = make_config(
        store={"url": "postgresql://erratad:hush@db/erratad"},
        serving={
            "environment": {"HF_TOKEN": "hush", "OMP_NUM_THREADS": "1"},
            "extra_args": ["--api-key", "hush", "--ssl-key-secret=hush", "--seed", "7"],
        },
        reflection={"endpoint": {"url": "http://user:hush@host/", "model": "m"}},
    )
    shown = yaml.safe_dump(masked(config))
    assert "hush" not in shown
    assert f"postgresql://erratad:{MASK}@db/erratad" in shown
    assert masked(config)["serving"]["environment"]["OMP_NUM_THREADS"] == "1"
    assert masked(config)["serving"]["extra_args"][-2:] == ["--seed", "7"]


def test_masking_keeps_a_configuration_without_secrets_as_it_is(make_config: Callable[..., Config]) -> None:
    config = make_config()
    assert Config.model_validate(masked(config)) == config
