"""Logs above debug hold no text of users and no check of a report, whatever an error quotes."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import pytest
import structlog
from fastapi.testclient import TestClient
from pydantic import BaseModel, ValidationError

from connectors.chat import EndpointError
from connectors.kafka.consumer import Commit, RawRecord
from daemon.config import Config, LogConfig
from daemon.config.intake import IntakeConfig
from daemon.errors import AnalysisRejectedError, TrainingError
from daemon.intake.dead_letters import DeadLetters
from daemon.intake.stage import FeedbackIntake, IngestStage
from daemon.runtime import log
from daemon.runtime.heartbeats import Heartbeats
from daemon.runtime.stage import LastSteps, run_stage
from daemon.store import Store
from daemon.web.app import create_app
from tests.fixtures.config import flagged
from tests.fixtures.measured import Scene
from tests.fixtures.reflection import GOOD, USELESS, ReflectionBench, ScriptedEndpoint
from tests.fixtures.web import BASE_URL, Condition

MARK = "Zanzibar-4711"
Level = Literal["debug", "info"]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Configures the log, does something, and returns what the log then holds."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def record(act: Callable[[], object], at: Level = "info") -> str:
        log.configure(LogConfig(level=at))
        capsys.readouterr()
        act()
        return capsys.readouterr().err

    yield record
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class _Small(BaseModel):
    number: int


def _wrong_value() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        _Small.model_validate({"number": MARK})
    return caught.value


QUOTING = [
    f"run 3 waits for a model server: POST http://vllm:8000/v1/chat/completions: HTTP 500: cannot read {MARK}\n{MARK}",
    f"http://vllm:8000 sent an unexpected response (KeyError: 'choices'): {MARK}",
    f"run 3 failed: it ended, in attempt 3 of 3; the end of its log:\nValueError: {MARK}",
    f"attempt 1 of 3: {AnalysisRejectedError('on_topic', MARK)}",
    f"it fails a check of the report: must_contain {MARK}",
    f"the chat template refuses it: {MARK}",
    f"/runs/3/train.jsonl, line 2 is not an example: KeyError('{MARK}'); start a new run",
    f"run 3 failed: the process that reads conversations ended with code 1: ValueError: {MARK}",
    f"dataset.embedding_model: no vectors from /model on cpu: the child ended with 1: ValueError: {MARK}",
    f"the manifest cannot be read: {_wrong_value()}",
]


@pytest.mark.parametrize("text", QUOTING)
def test_what_an_error_quotes_is_cut_and_stands_in_a_debug_log(text: str, written: Callable[..., str]) -> None:
    logger: Any = structlog.get_logger("test")

    def act() -> None:
        logger.info("step", sentence=text, reasons=(text, "it is fine"))
        logging.getLogger("library").warning(text)

    found = written(act)
    assert MARK not in found
    assert log.CUT in found
    assert "it is fine" in found
    assert MARK in written(act, "debug")


@pytest.mark.parametrize(
    "error",
    [
        ValueError(MARK),
        KeyError(MARK),
        _wrong_value(),
        TrainingError(f"it failed; the end of its log:\n{MARK}"),
        EndpointError(f"POST /v1: HTTP 400: {MARK}", transient=False),
    ],
)
def test_a_traceback_has_its_frames_but_no_values(error: Exception, written: Callable[..., str]) -> None:
    def fail() -> None:
        try:
            raise error
        except Exception as exc:
            raise OSError("the disk is full") from exc

    def act() -> None:
        try:
            fail()
        except OSError as exc:
            structlog.get_logger("test").error("part_failed", exc_info=exc)
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application")

    found = written(act)
    assert MARK not in found
    assert found.count("OSError: the disk is full") == 2
    assert found.count(type(error).__name__) >= 2
    assert "in fail" in found
    assert MARK in written(act, "debug")


# --- a report on its way ---


class _Consumer:
    """Gives the records once, and asks for the stop of the stage."""

    settled = True
    partitions = frozenset({("flagged", 0)})
    missing = ()

    def __init__(self, stop: threading.Event, *values: bytes) -> None:
        self._stop = stop
        self._values = values

    def take_losses(self) -> list[Any]:
        return []

    def poll(self, _timeout_s: float) -> list[RawRecord]:
        self._stop.set()
        return [
            RawRecord(topic="flagged", partition=0, offset=at, key=None, headers=(), value=value, timestamp_ms=0)
            for at, value in enumerate(self._values)
        ]

    def commit(self, _records: Any) -> Commit:
        return Commit.DONE

    def lag(self) -> dict[tuple[str, int], int]:
        return {}


class _Producer:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send_and_wait(self, batch: list[Any]) -> None:
        self.sent += batch


def test_kafka_intake_and_dead_letters_log_no_text(sqlite_store: Store, written: Callable[..., str]) -> None:
    stop, producer = threading.Event(), _Producer()
    good = flagged(id="marked", reason=MARK)
    wrong: list[Any] = [{**json.loads(good.encode()), "reason": "another"}, {"response": MARK}, MARK]
    consumer: Any = _Consumer(stop, good.encode(), *(json.dumps(one).encode() for one in wrong), MARK.encode())
    letters: Any = DeadLetters(producer=producer, topic="dead")  # type: ignore[arg-type]
    stage = IngestStage(
        store=sqlite_store, config=IntakeConfig(), consumer=consumer, dead_letters=letters, topics=["flagged"]
    )
    run = partial(run_stage, control=sqlite_store.control, commits=sqlite_store.changes.commits, stop=stop)
    beats = Heartbeats(sqlite_store.control, owner="test")
    found = written(lambda: run(stage, heartbeats=beats, last_steps=LastSteps()))
    assert "took in 5 messages" in found
    assert MARK not in found
    assert len(producer.sent) == 4


def test_intake_logs_no_text_of_a_report(
    sqlite_store: Store, make_config: Callable[..., Config], written: Callable[..., str]
) -> None:
    config = make_config()
    intake = FeedbackIntake(reports=sqlite_store.reports, config=config.intake)
    app = create_app(store=sqlite_store, intake=intake, config=config, health=Condition())  # type: ignore[arg-type]
    client = TestClient(app, base_url=BASE_URL, raise_server_exceptions=False)
    good = json.loads(flagged(id="marked", reason=MARK, response=MARK).encode())
    bodies: list[Any] = [
        good,
        {**good, "response": 4711, "severity": MARK},
        {**good, "reason": f"{MARK} again"},
        [MARK],
    ]

    def act() -> None:
        for body in bodies:
            client.post("/v1/feedback", json=body)
        client.post("/v1/feedback", content=MARK)

    assert MARK not in written(act)


@pytest.mark.parametrize("reply", [(500, MARK, ""), (400, MARK, ""), (200, f"{USELESS} {MARK}", "stop")])
def test_a_failed_reflection_logs_no_text_of_its_report(
    reply: tuple[int, str, str],
    make_reflection: Callable[..., ReflectionBench],
    analyst_endpoint: ScriptedEndpoint,
    written: Callable[..., str],
) -> None:
    analyst_endpoint.script = lambda _body: reply
    here = make_reflection(max_attempts=1, fallback_to_template=False)
    here.queue(flagged(reason=MARK, response=MARK, checks={"must_contain": [MARK]}))
    found = written(here.step)
    assert "reflected" in found
    assert MARK not in found


def test_a_refused_correction_logs_no_check(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint, written: Callable[..., str]
) -> None:
    analyst_endpoint.script = lambda body: (200, GOOD, "stop")
    here = make_reflection()
    here.queue(flagged(checks={"must_contain": [MARK]}))
    found = written(here.step)
    assert "proposed correction refused" in found
    assert MARK not in found


def test_an_item_that_servers_refuse_is_logged_without_their_words(scene: Scene, written: Callable[..., str]) -> None:
    from fastapi import HTTPException  # noqa: PLC0415

    scene.run()

    def refuse(_model: str, _messages: list[dict[str, Any]]) -> str:
        raise HTTPException(400, {"error": {"message": f"cannot read {MARK}"}})

    scene.fake.answer = refuse
    found = written(scene.step)
    assert "item left out" in found
    assert MARK not in found
