"""Who may ask: the token of `http.token_env` as a bearer token, or (console) as the password of a browser's prompt."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBasic, HTTPBasicCredentials, HTTPBearer
from starlette.exceptions import HTTPException

_BEARER = HTTPBearer(auto_error=False, description="The token that `http.token_env` names, where one is set.")
_BASIC = HTTPBasic(auto_error=False)


def bearer_only(token: str | None) -> Callable[..., None]:
    """For `/v1/feedback` and `/api`: a browser never sends it by itself, so no other site's page can use it."""

    def check(bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        if token is not None and not _same(None if bearer is None else bearer.credentials, token):
            raise HTTPException(401, "send 'Authorization: Bearer <token>'", {"WWW-Authenticate": "Bearer"})

    return check


def bearer_or_password(token: str | None) -> Callable[..., None]:
    """For the console, whose pages change nothing: any user name, the token as password."""

    def check(
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
        basic: Annotated[HTTPBasicCredentials | None, Depends(_BASIC)],
    ) -> None:
        given = bearer.credentials if bearer is not None else basic.password if basic is not None else None
        if token is not None and not _same(given, token):
            challenge = {"WWW-Authenticate": 'Basic realm="erratad", charset="UTF-8"'}
            raise HTTPException(401, "the password is the token that http.token_env names", challenge)

    return check


def _same(given: str | None, token: str) -> bool:
    return given is not None and secrets.compare_digest(given.encode(), token.encode())
