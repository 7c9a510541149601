"""FastAPI dependencies of the routes: authentication, roles, CSRF tokens and rate limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, Form, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from daemon.config.web import Role
from daemon.web.access import LOCAL_ADMIN, SESSION_COOKIE, Access, Identity
from daemon.web.rate_limit import RateLimit, refuse_for

TAKEN_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip"})
_BEARER = HTTPBearer(auto_error=False, description="A token of `http.tokens`. Its role limits the allowed operations.")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
ActorHeader = Annotated[
    str | None,
    Header(
        alias="X-Erratad-Actor",
        max_length=80,
        pattern=r"^[\x20-\x7e]+$",
        description="The person on whose behalf the caller acts. The audit log records both names.",
    ),
]


def address_of(request: Request) -> str | None:
    return None if request.client is None else request.client.host


async def raw_body(request: Request) -> bytes:
    """The undecoded body: the intake unpacks and decodes it like a Kafka record. `Guard` limits its size."""
    packed = request.headers.get("content-encoding", "identity").strip().lower()
    if packed not in TAKEN_ENCODINGS:
        raise HTTPException(415, f"content-encoding {packed!r:.40} is not taken; send gzip, or the plain body")
    return await request.body()


def require_caller(access: Access, needed: Role) -> Callable[..., Identity]:
    """For `/v1/feedback` and `/api`. Session cookies are ignored here, so a foreign page cannot use them."""

    def check(request: Request, bearer: Bearer) -> Identity:
        identity = _by_header(access, request, bearer)
        if identity is None:
            raise HTTPException(401, "send 'Authorization: Bearer <token>'", {"WWW-Authenticate": "Bearer"})
        return _in_role(identity, needed)

    return check


def require_actor(access: Access, needed: Role) -> Callable[..., str]:
    """Like `require_caller`, but returns the actor's name for the audit log."""

    caller = Depends(require_caller(access, needed))

    def actor(identity: Identity = caller, behalf: ActorHeader = None) -> str:
        if behalf is None:
            return identity.name
        return behalf if identity is LOCAL_ADMIN else f"{identity.name} for {behalf}"

    return actor


def require_viewer(access: Access, needed: Role) -> Callable[..., Identity]:
    """For the console's pages. A browser without a session is redirected to the sign-in page."""

    def check(request: Request, bearer: Bearer) -> Identity:
        identity = _by_header(access, request, bearer) or access.by_session(request.cookies.get(SESSION_COOKIE, ""))
        if identity is not None:
            return _in_role(identity, needed)
        if not access.has_tokens:
            raise HTTPException(
                403, "the proxy named no user, or none of the user's groups has a role in http.proxy.roles"
            )
        # only a GET can be repeated after the sign-in
        query = f"?{request.url.query}" if request.url.query else ""
        next_page = f"{request.url.path}{query}" if request.method == "GET" else "/"
        raise HTTPException(303, "sign in first", {"Location": f"/login?{urlencode({'next': next_page})}"})

    return check


def require_form(access: Access, needed: Role) -> Callable[..., Identity]:
    """For the console's forms. The form must carry the CSRF token of the same identity and session."""

    viewer = Depends(require_viewer(access, needed))

    def check(csrf: Annotated[str, Form(max_length=2000)], identity: Identity = viewer) -> Identity:
        if not access.is_form_of(identity, csrf):
            raise HTTPException(403, "the form is too old or not from this console; go back, reload and send it again")
        return identity

    return check


def rate_limited(limit: RateLimit, access: Access) -> Callable[..., None]:
    """Limits requests per token or proxy user, and per address for other callers."""

    def check(request: Request, bearer: Bearer) -> None:
        identity = _by_header(access, request, bearer)
        known = identity is not None and identity is not LOCAL_ADMIN
        name = identity.name if identity is not None and known else f"address {address_of(request)}"
        caller = f"user {identity.user}" if identity is not None and identity.user else name
        refuse_for(limit.wait_s(caller))

    return check


def _by_header(access: Access, request: Request, bearer: HTTPAuthorizationCredentials | None) -> Identity | None:
    if access.open:
        return LOCAL_ADMIN
    if bearer is not None:  # a wrong token must not fall back to the proxy headers
        return access.by_token(bearer.credentials, address=address_of(request))
    return access.by_proxy(address_of(request), request.headers)


def _in_role(identity: Identity, needed: Role) -> Identity:
    if not identity.role.covers(needed):
        raise HTTPException(403, f"this needs role {needed}; {identity.name} has role {identity.role}")
    return identity
