"""Which certificates a client of a daemon trusts."""

from __future__ import annotations

import ssl
from pathlib import Path

from daemon.errors import ConfigError


def trusting(authority: Path | None) -> ssl.SSLContext:
    """Trusts the authority of the file; None: those of the system. Raises ConfigError for a file that is none."""
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as exc:  # an SSLError, too
        raise ConfigError(f"the authority {authority} cannot be used: {exc}") from exc
