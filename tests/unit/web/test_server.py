"""The web server's clock."""

from __future__ import annotations

import threading
import time

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from daemon.web.server import HttpServer
from tests.fixtures.ports import free_port


def _server(port: int = 0) -> HttpServer:
    return HttpServer(uvicorn.Config(Starlette(), host="127.0.0.1", port=port, log_config=None))


def test_it_ends_at_once_when_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.web.server.TICK_S", 3600.0)
    server = _server()
    running = threading.Thread(target=server.run)
    running.start()
    while not server.started:
        time.sleep(0.01)
    server.stop()
    running.join(30)
    assert not running.is_alive()


def test_a_stop_before_its_start_or_after_its_end_does_no_harm() -> None:
    server = _server()
    server.stop()
    server.run()
    server.stop()


def test_an_answer_says_what_time_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.web.server.TICK_S", 0.01)
    port = free_port()
    server = _server(port)
    running = threading.Thread(target=server.run)
    running.start()
    try:
        while not server.started:
            time.sleep(0.01)
        first = second = httpx.get(f"http://127.0.0.1:{port}/").headers["date"]
        while second == first:
            second = httpx.get(f"http://127.0.0.1:{port}/").headers["date"]
    finally:
        server.stop()
        running.join(30)
    assert second > first or second[:3] != first[:3]
