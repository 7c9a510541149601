"""The backend over the HTTP API: what it sends, and the errors that it tells."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from daemon.cli import remote
from daemon.cli.options import operator
from daemon.cli.remote import RemoteBackend
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
from daemon.store import Store
from tests.fixtures.api import serving
from tests.fixtures.config import flagged
from tests.fixtures.stores import add

Answer = Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """A server that gives this answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fails(status: int, body: bytes, headers: dict[str, str] | None = None) -> ErratadError:
    with (
        answering(lambda _: (status, headers or {}, body)) as url,
        pytest.raises(ErratadError) as told,
    ):
        RemoteBackend(Server(url=url)).status()
    return told.value


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [
        (404, "not_found", NotFoundError),
        (409, "illegal_transition", IllegalTransitionError),
        (503, "store_unavailable", StoreUnavailableError),
        (403, "forbidden", RefusedError),
        (422, "invalid_request", RefusedError),
        (401, "unauthorized", RefusedError),
        (500, "internal", RefusedError),
    ],
)
def test_an_error_of_the_api_is_the_same_error_here(status: int, reason: str, error: type[ErratadError]) -> None:
    found = fails(status, json.dumps({"error": {"reason": reason, "detail": "its own words"}}).encode())
    assert type(found) is error
    assert ("its own words" in str(found)) == (status != 401)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"reason": "not_found", "detail": "Not Found"}}',
        b'{"error": {"reason": "unknown_address", "detail": "nothing is at this address"}}',
    ],
    ids=["0.1.0", "now"],
)
def test_an_operation_that_an_older_daemon_does_not_know_says_so(body: bytes) -> None:
    found = fails(404, body)
    assert type(found) is RefusedError
    assert "is it as new as this command line" in str(found)


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (502, b"bad gateway"), (404, b"{}"), (500, b"[1]")])
def test_another_server_at_the_address_is_told(status: int, body: bytes) -> None:
    found = fails(status, body)
    assert type(found) is DaemonUnreachableError
    assert "not as an erratad" in str(found)


def test_a_redirect_is_told_and_not_followed(tmp_path: Path) -> None:
    """It could carry the token to another host."""
    token, seen = tmp_path / "token", []
    token.write_text("secret")
    token.chmod(0o600)

    def other(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        seen.append(request.headers.get("Authorization"))
        return 200, {}, b"{}"

    with answering(other) as elsewhere, answering(lambda _: (302, {"Location": elsewhere}, b"")) as url:
        with pytest.raises(DaemonUnreachableError, match=f"a redirect to {elsewhere}"):
            RemoteBackend(Server(url=url, token_file=token)).status()
        assert seen == []
        RemoteBackend(Server(url=f"{elsewhere}/", token_file=token)).status()
    assert seen == ["Bearer secret"]


def test_a_daemon_that_does_not_answer_is_told() -> None:
    for url in ("http://127.0.0.1:9", "http://erratad.invalid", "https://127.0.0.1:9", f"http://{'x' * 70}.org"):
        with pytest.raises(ErratadError, match=r"does not answer|not the URL"):
            RemoteBackend(Server(url=url), timeout_s=5).status()


def test_an_unusable_authority_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    for name in ("ca.pem", "none.pem"):
        with pytest.raises(ConfigError, match="authority"):
            RemoteBackend(Server(url="https://127.0.0.1:9", ca_file=tmp_path / name))


def test_long_listings_are_read_in_pages(
    sqlite_store: Store, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAGE", 2)
    ids = [f"report-{number}/of:shop@bank" for number in range(5)]
    for report_id in ids:
        add(sqlite_store, flagged(id=report_id))
    with serving(sqlite_store, config_file) as url:
        backend = RemoteBackend(Server(url=url))
        assert [row["id"] for row in backend.reports(limit=9)] == ids[::-1]
        assert len(backend.reports(limit=3)) == 3
        assert backend.report(ids[0])["report"]["id"] == ids[0], "an id may hold a slash"
        backend.pause("finetune", reason="GPU is needed")
        assert backend.audit(limit=1)[0]["actor"] == operator()


def test_feedback_that_is_no_report_is_erased_over_the_api(sqlite_store: Store, config_file: Path) -> None:
    add(sqlite_store, flagged(id="up", rating="up"))
    with serving(sqlite_store, config_file) as url:
        backend = RemoteBackend(Server(url=url))
        certificate = backend.erase("up", reason="asked by its author")
        assert (certificate["report_id"], "signature" in certificate) == ("up", True)
        with pytest.raises(NotFoundError, match="gone"):
            backend.erase("gone", reason="x")
    assert sqlite_store.signals.get("up").state == "erased"
    assert sqlite_store.audit.entries(limit=1)[0].reason == "asked by its author"
