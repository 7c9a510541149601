"""Sign-in to the console with a token, and sign-out."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from daemon.config.web import Role
from daemon.web.access import SESSION_COOKIE, Access
from daemon.web.console.layout import PageRoute, Shell, render
from daemon.web.dependencies import address_of, require_form


def sessions_router(shell: Shell) -> APIRouter:
    router, access = APIRouter(route_class=PageRoute), shell.access
    signed_in = Depends(require_form(access, Role.REVIEWER))

    def sign_in_page(to: str, *, status: int = 200, problem: str | None = None) -> HTMLResponse:
        return render("login.html", status_code=status, csrf=access.form_token(None), to=local(to), problem=problem)

    @router.get("/login")
    def ask(to: Annotated[str, Query(alias="next", max_length=2000)] = "/") -> Response:
        return sign_in_page(to)

    @router.post("/login")
    def sign_in(
        request: Request,
        token: Annotated[str, Form(max_length=4096)],
        csrf: Annotated[str, Form(max_length=2000)],
        to: Annotated[str, Form(alias="next", max_length=2000)] = "/",
    ) -> Response:
        # first: another site must not make a browser use up the wrong tokens of its address
        if not access.is_form_of(None, csrf):
            return sign_in_page(to, status=403, problem="The page has expired. Try again.")
        identity = access.by_token(token.strip(), address=address_of(request))
        if identity is None:
            return sign_in_page(to, status=401, problem="Unknown token; see http.tokens in the configuration.")
        if not identity.role.covers(Role.REVIEWER):
            return sign_in_page(
                to, status=403, problem="This token has role reporter: it can send reports, but not open the console."
            )
        access.close_session(request.cookies.get(SESSION_COOKIE, ""))
        answer = RedirectResponse(local(to), 303)
        answer.set_cookie(
            SESSION_COOKIE,
            access.open_session(identity),
            max_age=access.session_s,
            httponly=True,
            samesite="strict",
            secure=_is_https(request, access),
        )
        return answer

    @router.post("/logout", dependencies=[signed_in])
    def sign_out(request: Request) -> Response:
        access.close_session(request.cookies.get(SESSION_COOKIE, ""))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
        return answer

    return router


def local(target: str) -> str:
    """The target if it is a path of this console, else "/". This prevents open redirects."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "/"
    is_ours = not parts.scheme and not parts.netloc and target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if is_ours and target.isprintable() else "/"


def _is_https(request: Request, access: Access) -> bool:
    """Whether the browser uses HTTPS, directly or up to a trusted proxy that terminates TLS."""
    if access.is_proxy(address_of(request)):
        return request.headers.get("X-Forwarded-Proto", "").lower() == "https"
    return request.url.scheme == "https"
