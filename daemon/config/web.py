"""Section `http`: address, callers and their roles."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, IPvAnyNetwork, model_validator

from daemon.config.intake import Name
from daemon.config.section import Positive, Seconds, Section

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")]


class Role(StrEnum):
    """Role of a caller. Each role includes the rights of the roles before it."""

    REPORTER = "reporter"
    """Send reports and ask for their state."""
    REVIEWER = "reviewer"
    """Read everything but settings and the audit log; accept, correct and reject reports and analyses."""
    OPERATOR = "operator"
    """Train, promote, reject, roll back, pause; read settings and the audit log."""
    ADMIN = "admin"
    """Erase a report's content permanently; read the original of a redacted one."""

    def covers(self, needed: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(needed)


class TokenConfig(Section):
    """A token, read from exactly one of `token_env` and `token_file`."""

    name: Name
    """The actor in the audit log."""
    role: Role
    token_env: str | None = None
    token_file: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.token_env is None) == (self.token_file is None):
            raise ValueError(f"give token_env or token_file for token {self.name!r}, and not both")
        return self


class ProxyConfig(Section):
    """A reverse proxy that signs users in (OIDC, SAML, ...) and passes user and groups in headers."""

    addresses: list[IPvAnyNetwork] = Field(min_length=1)
    """The headers are trusted only from these addresses or networks. The proxy must overwrite both headers."""
    user_header: HeaderName = "X-Forwarded-User"
    groups_header: HeaderName = "X-Forwarded-Groups"
    """Names separated by commas."""
    roles: dict[str, Role] = Field(min_length=1)
    """Role by group. A user in several groups gets the highest role; a user in none is refused."""

    @property
    def networks(self) -> list[IPv4Network | IPv6Network]:
        return list(self.addresses)


class HttpConfig(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8077
    token_env: str | None = None
    """Shorthand for one token named `admin` with role admin."""
    tokens: list[TokenConfig] = []
    proxy: ProxyConfig | None = None
    session_key_env: str | None = None
    """Variable with the key that signs console sessions; None: a random key, so a restart ends all sessions."""
    session_hours: Seconds = 12.0
    feedback_per_minute: Positive = 6000
    """Maximum number of reports per caller by `POST /v1/feedback`; above it: 429 with Retry-After."""
    allowed_hosts: list[str] = []
    """Host names accepted in requests to a loopback `host`, e.g. from a reverse proxy, besides loopback names."""
    max_stall_s: Seconds = 120.0
    """`/livez` fails when a stage has made no progress for this long."""

    @property
    def open_url(self) -> str | None:
        """The API's URL, if every local user may use it without a token, else None."""
        if self.host not in LOOPBACK or self.all_tokens or self.proxy is not None:
            return None
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def all_tokens(self) -> list[TokenConfig]:
        admin = [TokenConfig(name="admin", role=Role.ADMIN, token_env=self.token_env)] if self.token_env else []
        return [*admin, *self.tokens]

    @model_validator(mode="after")
    def _no_open_bind(self) -> Self:
        if self.host not in LOOPBACK and not self.all_tokens and self.proxy is None:
            raise ValueError(f"token_env, tokens or proxy is needed when host is not loopback (host is {self.host!r})")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [token.name for token in self.all_tokens]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tokens: the name {twice[0]!r} is used twice; the audit log needs distinct names")
        return self
