"""Alive and ready, composed from stages, store and servers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest

from connectors.chat import EndpointError
from connectors.vllm_wire import ServerState
from daemon.errors import StoreUnavailableError
from daemon.operations.health import Health
from daemon.runtime.stage import LastSteps
from daemon.store import Store
from tests.fakes.fleet import fleet_of
from tests.fixtures.stores import promote


@dataclass
class Server:
    """As much of a vLLM server as readiness asks."""

    live: str | None = "aligned-g000000"
    is_ready: bool = True
    broken: bool = False
    url: str = "http://vllm-0:8000"

    def ready(self) -> bool:
        return self.is_ready

    def state(self) -> ServerState:
        if self.broken:
            raise EndpointError("no answer in time", transient=True)
        return ServerState(live=self.live, epoch="e", adapters={})


def health(store: Store, *servers: Server, last_steps: LastSteps | None = None, **changes: Any) -> Health:
    return Health(
        last_steps=last_steps or LastSteps(),
        store=store,
        fleet=fleet_of(*servers),
        base_name="base",
        max_stall_s=120,
        **changes,
    )


def test_a_stage_without_steps_for_too_long_is_not_alive(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    last_steps = LastSteps()
    last_steps.mark("ingest")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 119)
    last_steps.mark("reflection")
    assert health(sqlite_store, last_steps=last_steps).live().alive
    monkeypatch.setattr(time, "monotonic", lambda: now + 122)
    live = health(sqlite_store, last_steps=last_steps).live()
    assert not live.alive
    assert live.stalled == ("ingest",)


def test_a_store_that_can_be_read_but_not_written_is_not_ready_until_a_stage_writes_again(sqlite_store: Store) -> None:
    last_steps = LastSteps()
    last_steps.store_failed("ingest", "the database does not answer: database or disk is full")
    ready = health(sqlite_store, Server(), last_steps=last_steps).ready()
    assert ready.missing == ("store: the database does not answer: database or disk is full",)
    last_steps.store_worked("ingest")
    assert health(sqlite_store, Server(), last_steps=last_steps).ready().ready


def test_one_server_with_the_live_generation_is_enough_to_be_ready(sqlite_store: Store) -> None:
    ready = health(sqlite_store, Server(is_ready=False), Server(), intake_connected=lambda: True).ready()
    assert ready.ready
    assert ready.missing == ()


@pytest.mark.parametrize("live", ["base", "aligned-g000000"])
def test_the_base_model_is_live_under_either_of_its_names(live: str, sqlite_store: Store) -> None:
    assert health(sqlite_store, Server(live=live)).ready().ready


def test_a_server_that_still_answers_as_an_older_generation_is_not_enough(sqlite_store: Store) -> None:
    promote(sqlite_store)
    [missing] = health(sqlite_store, Server(live="aligned-g000000")).ready().missing
    assert "aligned-g000000, not yet as aligned-g000001" in missing
    assert health(sqlite_store, Server(live="aligned-g000001")).ready().ready


@pytest.mark.parametrize(
    ("server", "sentence"),
    [
        (Server(is_ready=False), "is not ready"),
        (Server(live=None), "answers as nothing"),
        (Server(broken=True), "no answer in time"),
    ],
)
def test_what_a_server_lacks_is_said(server: Server, sentence: str, sqlite_store: Store) -> None:
    [missing] = health(sqlite_store, server).ready().missing
    assert server.url in missing
    assert sentence in missing


def test_every_missing_part_is_listed(sqlite_store: Store) -> None:
    missing = health(sqlite_store, intake_connected=lambda: False).ready().missing
    assert [part.split(":")[0] for part in missing] == ["serving", "intake"]


def test_a_database_that_does_not_answer_is_not_ready(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise StoreUnavailableError("the database does not answer")

    monkeypatch.setattr(type(sqlite_store.adapters), "live", lambda _self: away())
    [missing] = health(sqlite_store, Server()).ready().missing
    assert missing == "store: the database does not answer"
