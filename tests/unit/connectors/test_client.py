"""The feedback client, sync and async, against the real application in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from connectors import client as clients
from connectors.client import Accepted, AsyncFeedback, Feedback, FeedbackError, State, message_of
from daemon.config import Config
from daemon.intake.stage import FeedbackIntake
from daemon.labels import Lost, SignalState
from daemon.records import ReportState
from daemon.store import Store
from daemon.web.app import create_app
from tests.fixtures.config import flagged
from tests.fixtures.stores import force, learn
from tests.fixtures.web import BASE_URL, Condition


@pytest.fixture
def app(sqlite_store: Store, make_config: Callable[..., Config]) -> FastAPI:
    config = make_config(serving={"exchanges": {"enabled": True}})
    intake = FeedbackIntake(reports=sqlite_store.reports, config=config.intake, exchanges=True)
    health: Any = Condition()
    return create_app(store=sqlite_store, intake=intake, config=config, health=health)


class Flaky(httpx.BaseTransport):
    """Fails with these answers first, then asks the application."""

    def __init__(self, app: FastAPI, *failures: int | Exception) -> None:
        self.inside = TestClient(app, base_url=BASE_URL)
        self.failures = list(failures)
        self.asked = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if not self.failures:
            headers = dict(request.headers)
            answer = self.inside.request(request.method, str(request.url), content=request.read(), headers=headers)
            return httpx.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)
        failure = self.failures.pop(0)
        if isinstance(failure, Exception):
            raise failure
        return httpx.Response(failure, json={"error": {"reason": "busy", "detail": "later"}})


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(clients.time, "sleep", found.append)
    return found


def feedback(app: FastAPI, *failures: int | Exception) -> tuple[Feedback, Flaky]:
    transport = Flaky(app, *failures)
    return Feedback(BASE_URL, transport=transport), transport


def test_a_thumb_is_sent_and_its_state_read_until_it_ends(
    app: FastAPI, sqlite_store: Store, waits: list[float]
) -> None:
    client, _ = feedback(app)
    with client:
        accepted = client.submit("chatcmpl-1", rating="down", comment="wrong", reporter="user-1", tenant="shop")
        assert accepted.outcome == "waiting"
        stored = sqlite_store.signals.sent("local", accepted.id).flagged
        assert (stored.completion_id, stored.reason, stored.tenant) == ("chatcmpl-1", "wrong", "shop")
        again = client.submit("chatcmpl-1", rating="down", comment="wrong", reporter="user-1", tenant="shop")
        assert again == Accepted(id=accepted.id, outcome="redelivered")
        assert not client.state(accepted.id).ended
        with pytest.raises(TimeoutError, match=r"is waiting after 0\.1 s: received"):
            client.wait(accepted.id, timeout_s=0.1, interval_s=1)
        sqlite_store.signals.give_up(sqlite_store.signals.get(accepted.id), Lost.NO_RECORD)
        assert client.wait(accepted.id, timeout_s=5).state == "given_up"
        assert waits == []


def test_a_fix_is_heard_of(app: FastAPI, sqlite_store: Store) -> None:
    client, _ = feedback(app)
    [report_id] = learn(sqlite_store, flagged(), principal="local")
    force(sqlite_store, "UPDATE reports SET state = 'resolved', resolved_generation = 3")
    state = client.wait(report_id, timeout_s=1)
    assert state == State(id=report_id, state=ReportState.RESOLVED, said="fixed in generation 3", fixed_in_generation=3)


@pytest.mark.parametrize("failure", [503, 502, 429, httpx.ConnectError("away"), httpx.ReadTimeout("slow")])
def test_what_may_pass_is_tried_again_and_stored_once(
    app: FastAPI, sqlite_store: Store, waits: list[float], failure: int | Exception
) -> None:
    client, transport = feedback(app, failure, failure)
    message = {name: one for name, one in flagged().model_dump(mode="json", exclude_none=True).items() if name != "id"}
    assert client.send(message).outcome == "stored"
    assert (transport.asked, len(waits), len(sqlite_store.reports.find())) == (3, 2, 1)
    assert all(0 < wait <= 1 for wait in waits)


def test_what_does_not_pass_is_an_error_with_the_reason(app: FastAPI) -> None:
    client, transport = feedback(app)
    with pytest.raises(FeedbackError, match="HTTP 422, schema_violation: says nothing") as info:
        client.submit("chatcmpl-1")
    assert (info.value.status, info.value.reason, transport.asked) == (422, "schema_violation", 1)
    with pytest.raises(FeedbackError, match="HTTP 404"):
        client.state("unknown")
    away, transport = feedback(app, *[httpx.ConnectError("away")] * 20)
    with pytest.raises(FeedbackError, match=r"does not answer: away") as info:
        away.submit("chatcmpl-1", rating="up")
    assert (info.value.status, transport.asked) == (None, clients.MAX_ATTEMPTS)


def test_the_async_client_does_the_same(app: FastAPI, sqlite_store: Store) -> None:
    async def talk() -> tuple[Accepted, State]:
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 4711))
        async with AsyncFeedback(BASE_URL, transport=transport) as client:
            accepted = await client.submit("chatcmpl-1", edit="Canberra.")
            sqlite_store.signals.give_up(sqlite_store.signals.get(accepted.id), Lost.SEVERAL)
            with pytest.raises(FeedbackError, match="404"):
                await client.state("unknown")
            return accepted, await client.wait(accepted.id, timeout_s=1)

    accepted, state = asyncio.run(talk())
    assert (accepted.outcome, state.state) == ("waiting", "given_up")


def test_the_states_that_end_are_states_of_the_daemon() -> None:
    ended = {ReportState.RESOLVED, ReportState.NOT_REPRODUCED, ReportState.BURIED, ReportState.ERASED}
    assert ended | {SignalState.KEPT, SignalState.GIVEN_UP} == clients.ENDED


def test_absent_fields_are_not_sent() -> None:
    assert message_of("c", rating="up", category=None) == {"completion_id": "c", "rating": "up"}
