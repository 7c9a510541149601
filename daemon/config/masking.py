"""The configuration with masked secrets, for display."""

from __future__ import annotations

import re
from typing import Any

from daemon.config import Config

MASK = "********"

_SECRET_NAME = re.compile(r"token|key|secret|password|credential", re.IGNORECASE)

_URL_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):([^/@\s]+)@")


def masked(config: Config) -> dict[str, Any]:
    """The effective configuration as plain values; everything that may be a secret is masked."""
    values: dict[str, Any] = _masked(config.model_dump(mode="json"))
    serving = values["serving"]
    serving["environment"] = {
        name: MASK if _SECRET_NAME.search(name) else value for name, value in serving["environment"].items()
    }
    serving["extra_args"] = _masked_arguments(serving["extra_args"])
    return values


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return _URL_PASSWORD.sub(rf"\1:{MASK}@", value) if isinstance(value, str) else value


def _masked_arguments(arguments: list[str]) -> list[str]:
    """Mask the argument after options such as `--api-key`, and the value in `--api-key=...`."""
    shown: list[str] = []
    for index, argument in enumerate(arguments):
        name, separator, _ = argument.partition("=")
        before = arguments[index - 1] if index else ""
        follows_secret = before.startswith("--") and "=" not in before and _SECRET_NAME.search(before)
        if follows_secret and not argument.startswith("--"):
            shown.append(MASK)
        elif separator and _SECRET_NAME.search(name):
            shown.append(f"{name}={MASK}")
        else:
            shown.append(argument)
    return shown
