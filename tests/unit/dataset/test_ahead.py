"""Ordinary prompts that are answered between runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.chat import EndpointError, Reply
from connectors.vllm_wire import Served, ServerState
from daemon.dataset.ahead import IDLE
from daemon.dataset.replay import MAX_DRIFT_PAIRS
from daemon.dataset.stage import DatasetStage
from daemon.store import Store
from tests.fixtures.life import life
from tests.fixtures.training import SUBJECTS, OrdinaryAnswers, mistake, open_run, prepared, teach

AT_MOST = 16


class UsersServer:
    """A server that counts its users' requests."""

    def __init__(self) -> None:
        self.requests = 0
        self.in_flight = 0

    def state(self, *, timeout_s: float | None = None) -> ServerState:
        assert timeout_s is None
        return ServerState(
            live="aligned-g000001",
            epoch="e",
            adapters={"aligned-g000001": self.in_flight},
            traffic={"aligned-g000001": Served(requests=self.requests, errors=0)},
        )


@pytest.fixture
def users(servers: OrdinaryAnswers) -> UsersServer:
    one = UsersServer()
    servers.replace([one])  # type: ignore[list-item]
    return one


def _steps(stage: DatasetStage, number: int) -> list[str]:
    return [stage.step(life()).sentence for _ in range(number)]


@pytest.mark.usefixtures("users")
def test_a_run_asks_only_for_the_prompts_that_were_not_answered_before(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers
) -> None:
    stage = make_stage(max_replay_pairs=AT_MOST, seed=1)  # the seed of the run below
    while stage.step(life()).sentence != IDLE:
        pass
    assert len(servers.asked) == MAX_DRIFT_PAIRS + AT_MOST
    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:8]))

    prepared(sqlite_store, stage, tmp_path)

    assert len(servers.asked) == len(set(servers.asked)) == MAX_DRIFT_PAIRS + AT_MOST


def test_users_come_first(
    make_stage: Callable[..., DatasetStage],
    servers: OrdinaryAnswers,
    users: UsersServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = make_stage(max_replay_pairs=AT_MOST)
    waits = f"{IDLE}; {MAX_DRIFT_PAIRS + AT_MOST} ordinary prompts wait until no user asks the servers"
    assert _steps(stage, 1) == [waits]  # what happened before is not known
    users.requests += 1
    assert _steps(stage, 1) == [waits]
    users.in_flight = 1
    assert _steps(stage, 1) == [waits]
    assert servers.asked == []
    users.in_flight = 0
    monkeypatch.setattr("daemon.dataset.answers.LOOK_S", 0.0)

    def chat(*args: object, **options: object) -> Reply:
        users.requests += len(servers.asked) == 4  # a user comes while the fifth prompt is answered
        return answer(*args, **options)

    answer: Callable[..., Reply] = servers.chat
    monkeypatch.setattr(servers, "chat", chat)
    monkeypatch.setattr("daemon.serving.asking.MOST", 1)
    assert _steps(stage, 1) == [f"{IDLE}; {MAX_DRIFT_PAIRS + AT_MOST - 5} ordinary prompts wait for the base model"]
    assert len(servers.asked) == 5


@pytest.mark.usefixtures("users")
def test_a_run_that_starts_ends_the_asking_ahead(
    sqlite_store: Store,
    tmp_path: Path,
    make_stage: Callable[..., DatasetStage],
    servers: OrdinaryAnswers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = make_stage(max_replay_pairs=AT_MOST)
    _steps(stage, 1)
    monkeypatch.setattr("daemon.dataset.answers.LOOK_S", 0.0)
    monkeypatch.setattr("daemon.serving.asking.MOST", 1)
    answer: Callable[..., Reply] = servers.chat

    def chat(*args: object, **options: object) -> Reply:
        if len(servers.asked) == 4:
            open_run(sqlite_store, tmp_path / "runs")
        return answer(*args, **options)

    monkeypatch.setattr(servers, "chat", chat)
    _steps(stage, 1)
    assert len(servers.asked) == 5


def test_it_can_be_switched_off(make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers) -> None:
    assert _steps(make_stage(replay_ahead=False), 3) == [IDLE] * 3
    assert servers.asked == []


@pytest.mark.usefixtures("users")
def test_an_outage_of_the_servers_waits_and_says_so(
    make_stage: Callable[..., DatasetStage], servers: OrdinaryAnswers
) -> None:
    stage = make_stage(max_replay_pairs=AT_MOST)
    _steps(stage, 1)
    servers.failing = EndpointError("the server is away", transient=True)
    assert _steps(stage, 1) == [f"{IDLE}; no ordinary prompt is answered ahead: the server is away"]
    servers.failing = None
    while stage.step(life()).sentence != IDLE:
        pass
    assert len(servers.asked) == MAX_DRIFT_PAIRS + AT_MOST
