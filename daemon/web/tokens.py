"""The tokens of `http.tokens`. A file that changes is read again: the old token ends at once."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from daemon.config.secret import secret
from daemon.config.web import HttpConfig, Role, TokenConfig
from daemon.errors import ConfigError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    name: str
    role: Role
    value: str


class Tokens:
    """Raises ConfigError if a token cannot be read at the start, or if two names hold the same token."""

    def __init__(self, config: HttpConfig) -> None:
        self._configured = tuple(config.all_tokens)
        self._seen = self._marks()
        self._tokens = tokens_of(config)

    def now(self) -> list[Token]:
        """The tokens that are valid now. A token whose file is gone, or holds no token, is left out."""
        marks = self._marks()
        if marks != self._seen:
            self._tokens = list(self._readable())
            self._seen = marks
        return self._tokens

    def _marks(self) -> list[tuple[int, ...]]:
        return [_mark(one.token_file) for one in self._configured if one.token_file is not None]

    def _readable(self) -> Iterator[Token]:
        known: list[Token] = []
        for one in self._configured:
            try:
                token = _token(one)
                _refuse_same([*known, token])
            except ConfigError as exc:
                log.warning("token left out", token=one.name, reason=str(exc))
                continue
            known.append(token)
            yield token


def tokens_of(config: HttpConfig) -> list[Token]:
    """Read all tokens. Raises ConfigError if one cannot be read, or if two names hold the same token."""
    tokens = [_token(one) for one in config.all_tokens]
    _refuse_same(tokens)
    return tokens


def _refuse_same(tokens: list[Token]) -> None:
    for index, token in enumerate(tokens):
        for other in tokens[:index]:
            if hmac.compare_digest(token.value, other.value):
                raise ConfigError(f"http.tokens: {other.name!r} and {token.name!r} hold the same token; make a new one")


def _mark(file: Path) -> tuple[int, ...]:
    """Differs after the file has changed. Empty if it cannot be read."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _token(config: TokenConfig) -> Token:
    if config.token_file is None:
        value, source = secret(config.token_env) or "", f"environment variable {config.token_env}"
    else:
        source = str(config.token_file)
        try:
            value = config.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"http.tokens {config.name!r}: {source} cannot be read: {exc}") from exc
    if not value or not value.isascii() or not value.isprintable():
        raise ConfigError(
            f"http.tokens {config.name!r}: {source} must hold printable ASCII text to fit into an HTTP header"
        )
    return Token(name=config.name, role=config.role, value=value)
