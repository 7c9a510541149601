"""The application over the test's store, and clients of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from daemon.config import Config
from daemon.config.web import Role
from daemon.intake.stage import FeedbackIntake
from daemon.store import Store
from daemon.web.app import create_app
from tests.fixtures.web import BASE_URL, HOST, TOKENS, Condition


def intake_of(store: Store, config: Config) -> FeedbackIntake:
    return FeedbackIntake(reports=store.reports, config=config.intake, exchanges=config.serving.exchanges.enabled)


@pytest.fixture
def make_app(sqlite_store: Store, make_config: Callable[..., Config]) -> Callable[..., FastAPI]:
    def make(health: Any = None, **sections: Any) -> FastAPI:
        config = make_config(**sections)
        intake = intake_of(sqlite_store, config)
        return create_app(store=sqlite_store, intake=intake, config=config, health=health or Condition())

    return make


@pytest.fixture
def client(make_app: Callable[..., FastAPI]) -> Iterator[TestClient]:
    with TestClient(make_app(), base_url=BASE_URL) as client:
        yield client


@pytest.fixture
def make_client(
    sqlite_store: Store, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., TestClient]]:
    """Clients of an app that listens on the network. `peer` is the source address of their requests."""
    for role, token in TOKENS.items():
        monkeypatch.setenv(f"TEST_{role.upper()}", token)
    monkeypatch.setenv("TEST_KEY", "a-session-key")
    opened: list[TestClient] = []

    def make(*, peer: str = "192.0.2.7", url: str = HOST, **http: Any) -> TestClient:
        tokens = [{"name": f"a-{role}", "role": role, "token_env": f"TEST_{role.upper()}"} for role in Role]
        config = make_config(http={"host": "0.0.0.0", "tokens": tokens, **http})
        intake = intake_of(sqlite_store, config)
        health: Any = None  # unused here
        app: FastAPI = create_app(store=sqlite_store, intake=intake, config=config, health=health)
        opened.append(TestClient(app, base_url=url, client=(peer, 4711), follow_redirects=False))
        return opened[-1]

    yield make
    for client in opened:
        client.close()
