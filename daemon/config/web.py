"""The configuration section `http`: where to listen, who may ask, and what for."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, IPvAnyNetwork, model_validator

from daemon.config.section import Positive, Seconds, Section

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")]


class Role(StrEnum):
    """What someone may do; each role may do what the ones before it may."""

    REPORTER = "reporter"
    """Send reports and ask for their state."""
    REVIEWER = "reviewer"
    """Read everything but settings and the audit log; accept, correct and reject reports and analyses."""
    OPERATOR = "operator"
    """Train, promote, reject, roll back, pause; read settings and the audit log."""
    ADMIN = "admin"
    """Erase a report's content for good."""

    def covers(self, needed: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(needed)


class TokenConfig(Section):
    """Exactly one of `token_env` and `token_file` says where the token is."""

    name: Name
    """Stands in the audit log as the actor."""
    role: Role
    token_env: str | None = None
    token_file: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.token_env is None) == (self.token_file is None):
            raise ValueError(f"give token_env or token_file for token {self.name!r}, and not both")
        return self


class ProxyConfig(Section):
    """A reverse proxy that has signed the user in (OIDC, SAML, ...) and says in headers who it is."""

    addresses: list[IPvAnyNetwork] = Field(min_length=1)
    """Only requests that come from these addresses or networks are believed; the proxy must overwrite both headers."""
    user_header: HeaderName = "X-Forwarded-User"
    groups_header: HeaderName = "X-Forwarded-Groups"
    """Names separated by commas."""
    roles: dict[str, Role] = Field(min_length=1)
    """Role by group; who is in several gets the highest, who is in none is refused."""

    @property
    def networks(self) -> list[IPv4Network | IPv6Network]:
        return list(self.addresses)


class HttpConfig(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8077
    token_env: str | None = None
    """Short for one token named `admin` with role admin."""
    tokens: list[TokenConfig] = []
    proxy: ProxyConfig | None = None
    session_key_env: str | None = None
    """Signs the console's sessions; None: a random key, so that a restart of the daemon ends them."""
    session_hours: Seconds = 12.0
    feedback_per_minute: Positive = 6000
    """Reports that one caller may send by `POST /v1/feedback`; above it: 429 with Retry-After."""
    allowed_hosts: list[str] = []
    """Host names under which a loopback `host` may be asked for, e.g. by a reverse proxy; loopback names always may."""
    max_stall_s: Seconds = 120.0
    """`/livez` fails when a stage has made no step for this long."""

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
            raise ValueError(f"tokens: the name {twice[0]!r} stands for two tokens; the audit log could not tell them")
        return self
