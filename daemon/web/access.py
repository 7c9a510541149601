"""Authentication: a token with a role, the headers of a trusted proxy, or a console session opened with a token."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from itsdangerous import BadSignature, URLSafeTimedSerializer

from daemon.config.secret import secret
from daemon.config.web import HttpConfig, ProxyConfig, Role, TokenConfig
from daemon.errors import ConfigError

SESSION_COOKIE = "erratad_session"
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An authenticated caller. `session` ties forms to one browser session; it is empty for a bearer token."""

    name: str
    role: Role
    session: str = ""


LOCAL_ADMIN = Identity(name="local", role=Role.ADMIN)
"""Every caller of a loopback port without configured credentials, that is, every local user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    name: str
    role: Role
    value: str


def tokens_of(config: HttpConfig) -> list[Token]:
    """Read all tokens. Raises ConfigError if one cannot be read, or if two names hold the same token."""
    tokens = [Token(name=one.name, role=one.role, value=_value(one)) for one in config.all_tokens]
    for index, token in enumerate(tokens):
        for other in tokens[:index]:
            if hmac.compare_digest(token.value, other.value):
                raise ConfigError(f"http.tokens: {other.name!r} and {token.name!r} hold the same token; make a new one")
    return tokens


def _value(config: TokenConfig) -> str:
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
    return value


class Access:
    """Authenticates callers. Without configured tokens and proxy, every caller is `LOCAL_ADMIN`."""

    def __init__(self, tokens: Sequence[Token], *, proxy: ProxyConfig | None, key: str, session_hours: float) -> None:
        self._tokens = tuple(tokens)
        self._proxy = proxy
        self._key = key.encode()
        self.session_s = int(session_hours * SECONDS_PER_HOUR)
        self._sessions = URLSafeTimedSerializer(key, salt="erratad.session")
        self._forms = URLSafeTimedSerializer(key, salt="erratad.form")

    @classmethod
    def of(cls, config: HttpConfig) -> Access:
        """Raises ConfigError for a secret that cannot be read."""
        key = secret(config.session_key_env) or secrets.token_urlsafe(32)
        return cls(tokens_of(config), proxy=config.proxy, key=key, session_hours=config.session_hours)

    @property
    def open(self) -> bool:
        return not self._tokens and self._proxy is None

    @property
    def has_tokens(self) -> bool:
        return bool(self._tokens)

    def by_token(self, given: str) -> Identity | None:
        found = None
        for token in self._tokens:  # no early exit: the time taken must not reveal a match
            if hmac.compare_digest(token.value.encode(), given.encode()):
                found = Identity(name=token.name, role=token.role)
        return found

    # --- a proxy that signed the user in ---

    def is_proxy(self, address: str | None) -> bool:
        if self._proxy is None or address is None:
            return False
        try:
            peer = ip_address(address)
        except ValueError:
            return False
        return any(peer in network for network in self._proxy.networks)

    def by_proxy(self, address: str | None, headers: Mapping[str, str]) -> Identity | None:
        """The user asserted by the proxy headers, or None if missing or unmapped."""
        if self._proxy is None or not self.is_proxy(address):
            return None
        user = headers.get(self._proxy.user_header, "").strip()
        groups = {group.strip() for group in headers.get(self._proxy.groups_header, "").split(",")}
        roles = [role for group, role in self._proxy.roles.items() if group in groups]
        if not user or not roles:
            return None
        return Identity(name=user[:100], role=max(roles, key=list(Role).index), session=user)

    # --- the console's sessions ---

    def open_session(self, identity: Identity) -> str:
        """The cookie value for an identity that signed in with a token."""
        token = next(token for token in self._tokens if token.name == identity.name)
        return str(self._sessions.dumps([token.name, self._mark(token), secrets.token_urlsafe(12)]))

    def by_session(self, cookie: str) -> Identity | None:
        """The identity of a session cookie. None if it is expired or forged, or if its token has changed."""
        try:
            name, mark, session = self._sessions.loads(cookie, max_age=self.session_s)
        except (BadSignature, ValueError, TypeError):
            return None
        for token in self._tokens:
            if token.name == name and hmac.compare_digest(self._mark(token), mark):
                return Identity(name=name, role=token.role, session=session)
        return None

    def _mark(self, token: Token) -> str:
        """A fingerprint of the token: a changed token ends its sessions, and the cookie does not hold the token."""
        return hmac.new(self._key, token.value.encode(), "sha256").hexdigest()[:32]

    # --- the console's forms ---

    def form_token(self, identity: Identity | None) -> str:
        """The CSRF token of this identity. Every form of the console carries it."""
        return str(self._forms.dumps(_subject(identity)))

    def is_form_of(self, identity: Identity | None, token: str) -> bool:
        try:
            return bool(self._forms.loads(token, max_age=self.session_s) == _subject(identity))
        except BadSignature:
            return False


def _subject(identity: Identity | None) -> str:
    return "" if identity is None else f"{identity.name} {identity.session}"
