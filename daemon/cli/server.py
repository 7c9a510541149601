"""The address of a daemon's API, and its token."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from daemon.cli.output import warn
from daemon.errors import ConfigError

LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The address of a daemon's HTTP API, and the files with its token and with the authority of its certificate."""

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for an unusable URL."""
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.query or parts.fragment:
            raise ConfigError(f"{self.url!r} is not the URL of a server; give one such as https://erratad.example.com")
        if parts.username or parts.password:
            raise ConfigError("the URL of a server must not hold a user or password; put the token into a file")

    @property
    def token(self) -> str | None:
        """Raises ConfigError for a file that cannot be read, that other users can read, or that holds no token."""
        if self.token_file is None:
            return None
        try:
            mode = self.token_file.stat().st_mode
            token = self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"the token file {self.token_file} cannot be read: {exc}") from exc
        if mode & stat.S_IRWXO:
            raise ConfigError(
                f"every user of this machine can use the token file {self.token_file} (mode {mode & 0o777:04o}); "
                f"run `chmod 600 {self.token_file}`, and make a new token if others may have read it"
            )
        if not token or not token.isascii() or not token.isprintable():
            raise ConfigError(f"the token file {self.token_file} must hold one token of printable ASCII text")
        return token

    def warn_if_readable(self) -> None:
        """Warn of a token that is sent without encryption."""
        parts = urlsplit(self.url)
        if parts.scheme == "http" and self.token_file is not None and parts.hostname not in LOOPBACK:
            warn(f"the token is sent to {parts.hostname} without encryption; use https")
