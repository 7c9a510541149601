"""The webhook: signatures that a receiver can verify, retries, giving up visibly, and independence from Kafka."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from standardwebhooks import Webhook

from connectors.messages import EventType
from connectors.webhook import WebhookEndpoint, key_of
from daemon.config.delivery import OutboxConfig, WebhookConfig
from daemon.delivery.outbox import OutboxStage
from daemon.delivery.stage import DeliveryStage
from daemon.delivery.webhook import WebhookSink
from daemon.errors import ConfigError
from daemon.records import ReportState, utcnow
from daemon.runtime.stage import Step
from daemon.store import Store, schema
from daemon.store.engine import reading
from daemon.store.outbox import KAFKA, Sink, Subscription
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.receiver import Receiver
from tests.fixtures.stores import force, learn, mark, promote, publish, waiting_events

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RESOLVED = [EventType.REPORT_RESOLVED]
TO_WEBHOOK = Subscription(sink=Sink.WEBHOOK, types=tuple(RESOLVED))


@pytest.fixture
def make_stage(sqlite_store: Store, receiver: Receiver) -> Iterator[Any]:
    stages: list[DeliveryStage] = []

    def make(**changes: Any) -> DeliveryStage:
        values = {"url": receiver.url, "secret_env": "HOOK_SECRET", "events": RESOLVED, "timeout_s": 5, **changes}
        sink = WebhookSink.connect(WebhookConfig(**values), secret=SECRET)
        stages.append(DeliveryStage(store=sqlite_store, sink=sink))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


def step(stage: DeliveryStage | OutboxStage) -> Step:
    return stage.step(life())


def resolve(store: Store, count: int) -> list[str]:
    ids = learn(store, *(flagged() for _ in range(count)))
    mark(store, ids, ReportState.RESOLVED, generation=3)
    return ids


def due_again(store: Store) -> None:
    past = (utcnow() - timedelta(seconds=1)).strftime("%Y-%m-%d %H:%M:%S.%f")
    force(store, "UPDATE deliveries SET next_attempt_at = :at WHERE state = 'waiting'", at=past)


def test_the_signature_is_the_conventions_own_example() -> None:
    """The example vector of the Standard Webhooks libraries."""
    at = datetime.fromtimestamp(1614265330, UTC)
    signature = Webhook(key_of(SECRET)).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, '{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_an_event_arrives_signed_so_that_the_documented_code_accepts_it(
    sqlite_store: Store, receiver: Receiver, make_stage: Any
) -> None:
    [report] = resolve(sqlite_store, 1)
    assert step(make_stage()).sentence == "delivered 1 events to the webhook"
    [(headers, body)] = receiver.received
    _documented()["verify"](SECRET, headers, body)
    event = json.loads(body)
    assert (event["type"], event["subject"]) == ("report.resolved", report)
    sender = {"principal": "test", "sent_id": report}
    assert event["data"] == {"generation": 3, "said": "fixed in generation 3", **sender}
    assert headers["webhook-id"] == event["id"]
    step(make_stage())
    assert len(receiver.received) == 1


def test_the_bytes_that_are_signed_are_those_that_are_sent(receiver: Receiver) -> None:
    body = '{"said":"naïve 漢字 🙂",\r\n "escaped":"\\ud800", "lines":"a\u2028b"}'.encode()
    endpoint = WebhookEndpoint(receiver.url, secret=SECRET, timeout_s=5)
    endpoint.send("evt_1", body)
    endpoint.close()
    [(headers, received)] = receiver.received
    assert received == body
    _documented()["verify"](SECRET, headers, received)
    Webhook(SECRET).verify(received, headers)


@pytest.mark.parametrize(
    "change", [{"webhook-timestamp": "1614265330"}, {"webhook-id": "other"}, {"webhook-signature": "v1,AAAA"}]
)
def test_the_documented_code_refuses_what_was_changed(
    sqlite_store: Store, receiver: Receiver, make_stage: Any, change: dict[str, str]
) -> None:
    resolve(sqlite_store, 1)
    step(make_stage())
    [(headers, body)] = receiver.received
    with pytest.raises(ValueError, match=r"too old|not from erratad"):
        _documented()["verify"](SECRET, {**headers, **change}, body)


def test_a_refusal_is_tried_again_with_the_same_id(sqlite_store: Store, receiver: Receiver, make_stage: Any) -> None:
    resolve(sqlite_store, 1)
    receiver.statuses = [503, 302]
    stage = make_stage()
    assert step(stage).sentence == "1 events wait; last error: HTTP 503"
    step(stage)
    assert len(receiver.received) == 1
    for _ in range(2):
        due_again(sqlite_store)
        step(stage)
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1
    assert len(receiver.received) == 3
    assert step(stage).sentence == "every event was delivered"


def test_an_event_that_is_refused_does_not_hold_the_others_up(
    sqlite_store: Store, receiver: Receiver, make_stage: Any
) -> None:
    ids = sorted(resolve(sqlite_store, 3))
    receiver.statuses = [500]
    stage = make_stage()
    step(stage)
    step(stage)
    assert receiver.subjects() == ids
    due_again(sqlite_store)
    step(stage)
    assert receiver.subjects() == [*ids, ids[0]]


def test_an_event_is_given_up_visibly_after_the_last_attempt(
    sqlite_store: Store, receiver: Receiver, make_stage: Any
) -> None:
    resolve(sqlite_store, 1)
    receiver.statuses = [500] * 9
    stage = make_stage(max_attempts=3)
    for _ in range(5):
        said = step(stage).sentence
        due_again(sqlite_store)
    assert len(receiver.received) == 3
    assert said == "0 events wait, 1 were given up; last error: HTTP 500"


def test_an_endpoint_that_is_gone_is_not_asked_again(sqlite_store: Store, receiver: Receiver, make_stage: Any) -> None:
    resolve(sqlite_store, 1)
    receiver.statuses = [410]
    stage = make_stage()
    step(stage)
    due_again(sqlite_store)
    assert "1 were given up" in step(stage).sentence
    assert len(receiver.received) == 1


def test_an_endpoint_that_is_away_is_waited_for_and_its_address_stays_secret(
    sqlite_store: Store, receiver: Receiver, make_stage: Any
) -> None:
    resolve(sqlite_store, 1)
    stage = make_stage(url="http://127.0.0.1:9/token-in-the-path")
    said = step(stage).sentence
    assert said == "1 events wait; last error: no answer (ConnectError)"


def test_only_the_wanted_events_are_sent(sqlite_store: Store, receiver: Receiver, make_stage: Any) -> None:
    promote(sqlite_store)
    step(make_stage(events=[EventType.ADAPTER_PROMOTED]))
    assert [json.loads(body)["type"] for _, body in receiver.received] == ["adapter.promoted"]


def test_the_webhook_and_kafka_do_not_wait_for_each_other(
    sqlite_store: Store, receiver: Receiver, make_stage: Any
) -> None:
    resolve(sqlite_store, 2)
    waiting = len(waiting_events(sqlite_store))
    step(make_stage())
    assert len(receiver.received) == 2
    assert len(waiting_events(sqlite_store)) == waiting
    resolve(sqlite_store, 1)
    publish(sqlite_store)
    step(make_stage())
    assert len(receiver.received) == 3


@pytest.mark.parametrize("secret", ["", "short", "whsec_" + base64.b64encode(b"x" * 23).decode(), "!" * 40])
def test_a_secret_that_cannot_sign_is_refused_with_the_next_step(secret: str) -> None:
    config = WebhookConfig(url="http://127.0.0.1:9", secret_env="HOOK_SECRET")
    with pytest.raises(ConfigError, match=r"webhook\.secret_env: HOOK_SECRET must be base64 .*openssl rand") as caught:
        WebhookSink.connect(config, secret=secret)
    assert not secret or secret not in str(caught.value)


# --- retention ---


def age(store: Store, days: float) -> None:
    at = (utcnow() - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S.%f")
    force(store, "UPDATE outbox SET created_at = :at", at=at)


def pruned(store: Store, *subscriptions: Subscription) -> int:
    before = _stored(store)
    step(OutboxStage(store=store, config=OutboxConfig(), subscriptions=subscriptions))
    return before - _stored(store)


def _stored(store: Store) -> int:
    with reading(store.engine) as connection:
        return connection.execute(select(func.count()).select_from(schema.outbox)).scalar_one()


def test_old_events_go_and_new_ones_stay(sqlite_store: Store) -> None:
    resolve(sqlite_store, 1)
    assert pruned(sqlite_store) == 0
    age(sqlite_store, 8)
    assert pruned(sqlite_store) == 2


def test_what_kafka_has_not_taken_is_never_deleted(sqlite_store: Store) -> None:
    resolve(sqlite_store, 1)
    age(sqlite_store, 100)
    assert pruned(sqlite_store, KAFKA) == 0
    publish(sqlite_store)
    assert pruned(sqlite_store, KAFKA) == 2
    assert sqlite_store.outbox.backlog(TO_WEBHOOK).waiting == 0


def test_what_the_webhook_still_waits_for_is_never_deleted(
    sqlite_store: Store, receiver: Receiver, make_stage: Any
) -> None:
    resolve(sqlite_store, 1)
    age(sqlite_store, 100)
    receiver.statuses = [500]
    stage = make_stage()
    step(stage)
    assert pruned(sqlite_store, TO_WEBHOOK) == 1  # lesson.created, which it does not want
    due_again(sqlite_store)
    step(stage)
    assert pruned(sqlite_store, TO_WEBHOOK) == 1
    assert receiver.subjects() != []


def _documented() -> dict[str, Any]:
    """The verification code of docs/integrate.md, run as it stands there."""
    text = (Path(__file__).parents[3] / "docs" / "integrate.md").read_text()
    [code] = [one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def verify" in one]
    names: dict[str, Any] = {}
    exec(code, names)
    return names
