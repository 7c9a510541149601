"""Secrets come from environment variables only; the configuration holds the names of the variables."""

from __future__ import annotations

import os

from daemon.errors import ConfigError


def secret(variable: str | None) -> str | None:
    """The value of the environment variable, or None if no variable is named.

    Raises:
        ConfigError: when the variable is unset or empty.
    """
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(f"environment variable {variable} is not set; the configuration names it as a secret")
    return value
