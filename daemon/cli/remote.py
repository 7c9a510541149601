"""The backend over the HTTP API. It needs neither the daemon's configuration nor its database."""

from __future__ import annotations

import json
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from daemon import __version__
from daemon.cli import backend
from daemon.cli.backend import Document, ReportAction
from daemon.cli.options import operator
from daemon.cli.server import Server
from daemon.errors import (
    ConfigError,
    DaemonUnreachableError,
    ErratadError,
    IllegalTransitionError,
    NotFoundError,
    RefusedError,
    StoreUnavailableError,
)
from daemon.report_filter import ALL, ReportFilter
from daemon.tls import trusting

TIMEOUT_S = 30.0
PAGE = 1000
"""Maximum number of rows in one answer of the API."""
MAX_ACTOR = 80
_ERRORS: dict[str, type[ErratadError]] = {
    "not_found": NotFoundError,
    "illegal_transition": IllegalTransitionError,
    "store_unavailable": StoreUnavailableError,
}


class RemoteBackend:
    """Acts in the name of the token; the audit log also names the OS user."""

    def __init__(self, server: Server, *, timeout_s: float = TIMEOUT_S) -> None:
        """Raises ConfigError for a token file or an authority that cannot be used."""
        self._url = server.url.rstrip("/")
        self.where = f" of {self._url}"
        self._timeout_s = timeout_s
        self._headers = _headers(server.token)
        self._opener = build_opener(_NoRedirects, HTTPSHandler(context=trusting(server.ca_file)))

    # --- read ---

    def status(self) -> Document:
        return self._get("status")

    def reports(self, wanted: ReportFilter = ALL, *, limit: int) -> list[Document]:
        return self._pages("reports", limit, **wanted.query)

    def report(self, report_id: str) -> Document:
        return self._get(f"reports/{quote(report_id, safe='')}")

    def review_queue(self, *, limit: int) -> Document:
        return self._get(f"reviews?limit={limit}")

    def lessons(self, *, limit: int) -> list[Document]:
        return self._list("lessons", limit=limit)

    def runs(self, *, limit: int) -> list[Document]:
        return self._pages("runs", limit)

    def run(self, run_id: int) -> Document:
        return self._get(f"runs/{run_id}")

    def adapters(self, *, state: str | None = None, limit: int) -> list[Document]:
        return self._pages("adapters", limit, state=state)

    def adapter(self, generation: int) -> Document:
        return self._get(f"adapters/{generation}")

    def audit(self, *, limit: int) -> list[Document]:
        return self._pages("audit", limit)

    def intent(self, intent_id: int) -> Document:
        return self._get(f"intents/{intent_id}")

    def certificate(self, report_id: str) -> Document:
        return self._get(f"erasures/{quote(report_id, safe='')}")["certificate"] or {}

    def certificate_key(self) -> str:
        return str(self._get("certificate-key")["public_key"])

    # --- reports ---

    def act_on(self, report_id: str, action: ReportAction, *, reason: str) -> None:
        self._post(action, report_id=report_id, reason=reason)

    def correct(self, report_id: str, *, analysis: str, correction: str | None, reason: str) -> None:
        self._post("correct", report_id=report_id, analysis=analysis, correction=correction or None, reason=reason)

    def original(self, report_id: str, *, reason: str) -> Document:
        return self._post("original", report_id=report_id, reason=reason)

    def erase(self, report_id: str, *, reason: str) -> Document:
        erased = self._post("erase", report_id=report_id, reason=reason)
        certificate: Document | None = erased.get("certificate")  # of feedback that is no report
        return certificate or self.certificate(report_id)

    # --- steer ---

    def request(self, kind: backend.Request, *, generation: int | None = None, reason: str) -> Document:
        named = {} if generation is None else {"generation": generation}
        return self._post(kind, reason=reason, **named)

    def reject(self, generation: int, *, reason: str) -> None:
        self._post("reject", generation=generation, reason=reason)

    def pause(self, stage: str, *, reason: str) -> None:
        self._post("pause", stage=stage, reason=reason)

    def resume(self, stage: str, *, reason: str) -> bool:
        return bool(self._post("resume", stage=stage, reason=reason)["lifted"])

    # --- HTTP ---

    def _pages(self, path: str, limit: int, **query: object) -> list[Document]:
        rows: list[Document] = []
        while len(rows) < limit:
            wanted = min(PAGE, limit - len(rows))
            page = self._list(path, limit=wanted, offset=len(rows), **query)
            rows += page
            if len(page) < wanted:
                break
        return rows

    def _list(self, path: str, **query: object) -> list[Document]:
        given = urlencode({name: value for name, value in query.items() if value is not None})
        found: list[Document] = self._call(f"{path}?{given}", None)
        return found

    def _get(self, path: str) -> Document:
        found: Document = self._call(path, None)
        return found

    def _post(self, path: str, **body: object) -> Document:
        found: Document = self._call(path, json.dumps(body).encode())
        return found

    def _call(self, path: str, body: bytes | None) -> Any:
        """A GET, or a POST of a JSON body."""
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        request = Request(f"{self._url}/api/{path}", data=body, headers=headers)  # noqa: S310 - `Server` checks the scheme
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return _content(answer, self._url)
        except HTTPError as exc:
            with exc:
                raise _refusal(exc, self._url) from exc
        except (OSError, HTTPException) as exc:
            reason = getattr(exc, "reason", None) or exc
            raise DaemonUnreachableError(f"the daemon at {self._url} does not answer: {reason or type(exc)}") from exc
        except UnicodeError as exc:
            raise ConfigError(f"{self._url} is not the URL of a server: {exc}") from exc


class _NoRedirects(HTTPRedirectHandler):
    """A redirect could carry the token to another host."""

    def redirect_request(self, *_: object) -> None:
        return None


def _headers(token: str | None) -> dict[str, str]:
    headers = {"Accept": "application/json", "User-Agent": f"erratad/{__version__}"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    actor = operator()
    if actor.isascii() and actor.isprintable() and len(actor) <= MAX_ACTOR:
        headers["X-Erratad-Actor"] = actor
    return headers


def _content(answer: HTTPResponse, url: str) -> Any:
    try:
        return json.loads(answer.read())
    except ValueError as exc:
        raise DaemonUnreachableError(f"{url} answers, but not as an erratad: its answer is not JSON") from exc


def _refusal(answer: HTTPError, url: str) -> ErratadError:
    """The error that the API told, or one for an answer that is not the API's."""
    try:
        problem = json.loads(answer.read())["error"]
        reason, detail = str(problem["reason"]), str(problem["detail"])
    except (OSError, ValueError, KeyError, TypeError, HTTPException):
        to = answer.headers.get("Location")
        more = f", a redirect to {to}; name that address if it is the daemon's" if to else ""
        return DaemonUnreachableError(f"{url} answers, but not as an erratad: HTTP {answer.code}{more}")
    if answer.code == 401:
        return RefusedError(f"{url} needs a valid token: give --token-file, or a context with one")
    if reason == "unknown_address" or (reason, detail) == ("not_found", "Not Found"):  # the latter of 0.1.0
        return RefusedError(f"{url} does not know this operation; is it as new as this command line ({__version__})?")
    return _ERRORS.get(reason, RefusedError)(detail)
