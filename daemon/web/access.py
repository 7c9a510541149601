"""Authentication: a token with a role, the headers of a trusted proxy, or a console session opened with a token."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Protocol

from itsdangerous import BadSignature, URLSafeTimedSerializer

from daemon.config.secret import secret
from daemon.config.sources import Sources
from daemon.config.web import HttpConfig, Role
from daemon.records import utcnow
from daemon.web.rate_limit import RateLimit, refuse_for
from daemon.web.tokens import Token, Tokens

SESSION_COOKIE = "erratad_session"
SECONDS_PER_HOUR = 3600
WRONG_TOKENS_PER_MINUTE = 10
"""Above it, a wrong token from the same address is answered with 429. A right one is still taken."""
GUESSES_PER_MINUTE = 600
"""Above it, no token from the same address is compared. At this rate, 16 random letters and digits take 10^19 years."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An authenticated caller. `session` ties forms to one browser session; it is empty for a bearer token."""

    name: str
    role: Role
    session: str = ""
    user: str = ""
    """The whole name of a user whom the proxy signed in; empty for a token."""

    def principal(self, sources: Sources) -> str:
        """The principal of the reports that this caller sends."""
        return sources.of_user(self.user) if self.user else sources.of_token(self.name)


LOCAL_ADMIN = Identity(name="local", role=Role.ADMIN)
"""Every caller of a loopback port without configured credentials, that is, every local user."""


class Ended(Protocol):
    """The sessions that ended by a sign-out, `Store.sign_outs` for example."""

    def add(self, session: str, *, until: datetime) -> None: ...

    def __contains__(self, session: str) -> bool: ...


class Access:
    """Authenticates callers. Without configured tokens and proxy, every caller is `LOCAL_ADMIN`."""

    def __init__(self, config: HttpConfig, *, ended: Ended) -> None:
        """Raises ConfigError for a secret that cannot be read."""
        key = secret(config.session_key_env) or secrets.token_urlsafe(32)
        self._tokens = Tokens(config)
        self._proxy = config.proxy
        self._ended = ended
        self._key = key.encode()
        self.open = not config.all_tokens and config.proxy is None
        self.has_tokens = bool(config.all_tokens)
        self.session_s = int(config.session_hours * SECONDS_PER_HOUR)
        self._sessions = URLSafeTimedSerializer(key, salt="erratad.session")
        self._forms = URLSafeTimedSerializer(key, salt="erratad.form")
        self._wrong = RateLimit(WRONG_TOKENS_PER_MINUTE)
        self._guesses = RateLimit(GUESSES_PER_MINUTE)

    # --- tokens ---

    def by_token(self, given: str, *, address: str | None) -> Identity | None:
        """The identity of a token, or None. Wrong tokens are counted per address of the caller.

        Many callers may share the address of a proxy. A right token is therefore taken while the wrong ones of its
        address are refused, up to a number of guesses that finds no token of a fair length.

        Raises:
            HTTPException: 429, the address has sent too many wrong tokens.
        """
        network = _network(address)
        refuse_for(self._guesses.wait_s(network, count=False))
        found = None
        for token in self._tokens.now():  # no early exit: the time taken must not reveal a match
            if hmac.compare_digest(token.value.encode(), given.encode()):
                found = Identity(name=token.name, role=token.role)
        if found is None:
            self._guesses.wait_s(network)
            refuse_for(self._wrong.wait_s(network))
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
        return Identity(name=user[:100], role=max(roles, key=list(Role).index), session=user, user=user)

    # --- the console's sessions ---

    def open_session(self, identity: Identity) -> str:
        """The cookie value for an identity that signed in with a token."""
        token = next(token for token in self._tokens.now() if token.name == identity.name)
        return str(self._sessions.dumps([token.name, self._mark(token), secrets.token_urlsafe(12)]))

    def by_session(self, cookie: str) -> Identity | None:
        """The identity of a session cookie. None if it is expired, forged or signed out, or if its token has changed.

        Raises:
            StoreUnavailableError: The database with the ended sessions cannot be reached.
        """
        try:
            name, mark, session = self._sessions.loads(cookie, max_age=self.session_s)
        except (BadSignature, ValueError, TypeError):
            return None
        for token in self._tokens.now():
            if token.name == name and hmac.compare_digest(self._mark(token), mark):
                return None if session in self._ended else Identity(name=name, role=token.role, session=session)
        return None

    def close_session(self, cookie: str) -> None:
        """End a session for all daemons. A cookie that opens no session changes nothing."""
        identity = self.by_session(cookie)
        if identity is not None:
            self._ended.add(identity.session, until=utcnow() + timedelta(seconds=self.session_s))

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


def _network(address: str | None) -> str:
    """The address, or its /64 network for IPv6: one host can use all addresses of that network."""
    try:
        peer = ip_address(address or "")
    except ValueError:
        return address or ""
    if isinstance(peer, IPv4Address):
        return str(peer)
    return str(peer.ipv4_mapped or ip_network((peer.packed, 64), strict=False))
