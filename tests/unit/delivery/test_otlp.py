"""Verdicts as OpenTelemetry's events: what a collector gets, what it does not, and what becomes of a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from connectors.messages import EventType
from connectors.otlp import OtlpError, OtlpLogs, OtlpUnavailableError, record
from daemon.config.delivery import OtlpConfig
from daemon.delivery.otlp import OtlpSink
from daemon.delivery.stage import DeliveryStage
from daemon.errors import ConfigError
from daemon.records import ReportState, utcnow
from daemon.store import Store
from daemon.store.outbox import Sink, Subscription
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.receiver import Receiver
from tests.fixtures.stores import force, learn, mark, promote

Make = Callable[..., DeliveryStage]
LATER = [401, 403, 429, 502, 503, 504]


@pytest.fixture
def make_stage(sqlite_store: Store, receiver: Receiver) -> Iterator[Make]:
    stages: list[DeliveryStage] = []

    def make(**changes: Any) -> DeliveryStage:
        config = OtlpConfig(**{"endpoint": f"http://{receiver.address}", "timeout_s": 5, **changes})
        sink = OtlpSink.connect(config, store=sqlite_store, alias="aligned")
        stages.append(DeliveryStage(store=sqlite_store, sink=sink))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


def events(receiver: Receiver) -> list[dict[str, Any]]:
    """The attributes of all records that came, read as the collector reads them."""
    found = []
    for _, body in receiver.received:
        request = Parse(body, ExportLogsServiceRequest())  # refuses unknown fields
        [resource] = request.resource_logs
        [scope] = resource.scope_logs
        for one in scope.log_records:
            assert one.event_name == "gen_ai.evaluation.result"
            assert abs(one.time_unix_nano / 1e9 - utcnow().timestamp()) < 3600
            values = {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in one.attributes}
            found.append(values)
    return found


def resolve(store: Store, count: int = 1, **changes: Any) -> list[str]:
    ids = learn(store, *(flagged(**changes) for _ in range(count)))
    mark(store, ids, ReportState.RESOLVED, generation=3)
    return ids


def test_a_collector_reads_the_verdicts_and_no_text_or_name_leaves(
    sqlite_store: Store, receiver: Receiver, make_stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTLP_TOKEN", "a-token")
    [fixed] = resolve(sqlite_store, completion_id="chatcmpl-4711", reporter="ann", reason="It named Sydney.")
    promoted = promote(sqlite_store)
    assert make_stage(token_env="OTLP_TOKEN").step(life()).worked
    [(headers, body)] = receiver.received
    assert headers[":path"] == "/v1/logs"
    assert headers["authorization"] == "Bearer a-token"
    report, adapter = events(receiver)
    assert report.pop("erratad.event_id") != adapter.pop("erratad.event_id")
    assert report == {
        "gen_ai.evaluation.name": "erratad.report",
        "gen_ai.evaluation.score.label": "resolved",
        "gen_ai.evaluation.score.value": 1.0,
        "gen_ai.request.model": "aligned",
        "gen_ai.response.id": "chatcmpl-4711",
        "erratad.report_id": fixed,
        "erratad.generation": 3,
    }
    assert adapter == {
        "gen_ai.evaluation.name": "erratad.adapter",
        "gen_ai.evaluation.score.label": "promoted",
        "gen_ai.evaluation.score.value": 1.0,
        "gen_ai.request.model": "aligned",
        "gen_ai.response.model": sqlite_store.adapters.live().name,
        "erratad.generation": promoted.generation,
    }
    assert not [word for word in (b"ann", b"Sydney", b"capital") if word in body]


@pytest.mark.parametrize(
    ("state", "label", "value"),
    [
        (ReportState.RECURRING, "recurring", 0.0),
        (ReportState.IMPROVED, "improved", 0.0),
        (ReportState.NOT_REPRODUCED, "not_reproduced", None),
    ],
)
def test_only_a_fixed_mistake_has_the_value_1(
    sqlite_store: Store, receiver: Receiver, make_stage: Make, state: ReportState, label: str, value: float | None
) -> None:
    ids = resolve(sqlite_store)
    if state is not ReportState.RECURRING:
        force(sqlite_store, "UPDATE reports SET state = 'recurring'")
    mark(sqlite_store, ids, state, generation=4)
    make_stage().step(life())
    last = events(receiver)[-1]
    assert (last["gen_ai.evaluation.score.label"], last.get("gen_ai.evaluation.score.value")) == (label, value)
    assert "gen_ai.response.id" not in last


def test_one_request_holds_many_events_and_others_are_not_sent(
    sqlite_store: Store, receiver: Receiver, make_stage: Make
) -> None:
    resolve(sqlite_store, 5)
    assert make_stage().step(life()).sentence == "delivered 5 events to the OTLP endpoint"
    assert len(receiver.received) == 1
    assert {one["gen_ai.evaluation.score.label"] for one in events(receiver)} == {"resolved"}
    lessons = Subscription(sink=Sink.OTLP, types=(EventType.LESSON_CREATED,))
    assert len(sqlite_store.outbox.due(lessons, limit=10)) == 5


@pytest.mark.parametrize("status", LATER)
def test_a_collector_that_is_busy_is_waited_for_and_it_costs_no_attempt(
    sqlite_store: Store, receiver: Receiver, make_stage: Make, status: int
) -> None:
    resolve(sqlite_store, 2)
    stage = make_stage(max_attempts=1)
    receiver.status = status
    for _ in range(3):
        assert stage.step(life()).sentence == f"2 events wait; last error: HTTP {status}"
    receiver.status = 200
    assert stage.step(life()).sentence == "delivered 2 events to the OTLP endpoint"


def test_events_that_are_refused_are_given_up_visibly(
    sqlite_store: Store, receiver: Receiver, make_stage: Make
) -> None:
    resolve(sqlite_store, 2)
    receiver.status = 400
    stage = make_stage(max_attempts=1)
    assert stage.step(life()).sentence == "0 events wait, 2 were given up; last error: HTTP 400"
    stage.step(life())
    assert len(receiver.received) == 1


def test_a_collector_that_is_away_is_waited_for_and_its_address_stays_secret(
    sqlite_store: Store, make_stage: Make
) -> None:
    resolve(sqlite_store)
    stage = make_stage(endpoint="http://127.0.0.1:9/secret-path", max_attempts=1)
    assert stage.step(life()).sentence == "1 events wait; last error: no answer (ConnectError)"


def test_a_report_that_is_gone_has_a_verdict_still(sqlite_store: Store, receiver: Receiver, make_stage: Make) -> None:
    [report] = resolve(sqlite_store, completion_id="chatcmpl-1")
    sqlite_store.reports.erase(report, actor="op", reason="asked")
    make_stage().step(life())
    assert all("gen_ai.response.id" not in one for one in events(receiver))


def test_a_token_without_a_value_is_named(make_stage: Make) -> None:
    with pytest.raises(ConfigError, match="NO_SUCH_TOKEN"):
        make_stage(token_env="NO_SUCH_TOKEN")


def test_the_client_tells_what_was_refused_in_part(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = OtlpLogs(f"http://{receiver.address}/", token=None, resource={"service.name": "x"}, timeout_s=5)
    one = record("name", utcnow(), {"a": "x", "b": 2, "c": 0.5, "d": None})
    assert endpoint.send([one]) is None
    assert [pair["key"] for pair in one["attributes"]] == ["a", "b", "c"]
    partial = {"partialSuccess": {"rejectedLogRecords": "2", "errorMessage": "too old"}}
    for said, expected in [
        (json.dumps(partial), "2 refused: too old"),
        (json.dumps({"partialSuccess": {"errorMessage": "a warning"}}), None),
        ("[]", None),
        ("no JSON", None),
    ]:
        monkeypatch.setattr("connectors.otlp._read", lambda _, said=said: said.encode())
        assert endpoint.send([one]) == expected
    for status, error in ((400, OtlpError), (302, OtlpError), (503, OtlpUnavailableError)):
        receiver.status = status
        with pytest.raises(error, match=f"HTTP {status}"):
            endpoint.send([one])
    endpoint.close()
