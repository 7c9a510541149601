"""`erratad submit` against a real broker and the real HTTP surface."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from connectors.kafka import consumer as connector
from connectors.messages import Rejection
from daemon.config import Config
from daemon.config.intake import KafkaConfig
from daemon.errors import ConfigError
from daemon.intake.stage import FeedbackIntake
from daemon.intake.submit import Submission, send_http, send_kafka
from daemon.store import Store
from daemon.web.app import create_app
from tests.fixtures.broker import read
from tests.fixtures.config import flagged
from tests.fixtures.ports import free_port

TOKEN = "a-good-token"


@pytest.fixture
def daemon_url(
    sqlite_store: Store, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The HTTP surface on loopback, behind a token."""
    monkeypatch.setenv("ERRATAD_TEST_TOKEN", TOKEN)
    config = make_config(
        http={"token_env": "ERRATAD_TEST_TOKEN"}, intake={"max_message_bytes": 4000, "max_reports_per_day": 50}
    )
    intake = FeedbackIntake(reports=sqlite_store.reports, config=config.intake)
    health: Any = None  # no test here asks for it
    app = create_app(store=sqlite_store, intake=intake, config=config, health=health)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


def lines(*ids: str, **changes: Any) -> list[bytes]:
    return [flagged(id=report_id, **changes).encode() + b"\n" for report_id in ids]


def test_lines_reach_the_topic_keyed_by_their_id(kafka):
    submission = send_kafka([*lines("a", "b"), b"\n", *lines("c")], kafka)
    assert submission == Submission(lines=3, sent=3)
    assert submission.complete
    records = read(kafka, kafka.topic)
    assert {record.key for record in records} == {b"a", b"b", b"c"}
    assert all(record.value.startswith(b'{"version":1') for record in records)


@pytest.mark.parametrize("way", ["kafka", "http"])
def test_one_bad_line_is_named_and_keeps_every_line_back(kafka, daemon_url, sqlite_store, way):
    file = [*lines("a"), b"{oops\n", b"\n", *lines("b", response="x" * 5000)]
    if way == "kafka":
        submission = send_kafka(file, kafka, max_message_bytes=4000)
    else:
        submission = send_http(file, daemon_url, token=TOKEN, max_message_bytes=4000)
    assert (submission.lines, submission.sent, submission.complete) == (3, 0, False)
    assert [(problem.line, problem.reason) for problem in submission.problems] == [
        (2, Rejection.MALFORMED_JSON),
        (4, Rejection.OVERSIZED),
    ]
    assert sqlite_store.reports.find() == []
    if way == "kafka":
        assert read(kafka, kafka.topic) == []


def test_over_http_every_line_is_answered_and_sending_again_changes_nothing(daemon_url, sqlite_store):
    file = lines("a", "b")
    assert send_http(file, daemon_url, token=TOKEN) == Submission(lines=2, sent=2, outcomes={"stored": 2})
    assert send_http(file, daemon_url, token=TOKEN) == Submission(lines=2, sent=2, outcomes={"redelivered": 2})
    assert {report.id for report in sqlite_store.reports.find()} == {"a", "b"}


def test_a_line_that_the_daemon_refuses_is_named_and_the_others_are_sent(daemon_url):
    send_http(lines("b"), daemon_url, token=TOKEN)
    file = [*lines("a"), *lines("b", response="another"), *lines("c", response="x" * 5000), *lines("d")]
    submission = send_http(file, daemon_url, token=TOKEN)
    assert (submission.lines, submission.sent, submission.stopped) == (4, 2, None)
    assert [(problem.line, problem.reason) for problem in submission.problems] == [(2, "conflict"), (3, "oversized")]
    assert "stored with other content" in submission.problems[0].detail
    assert not submission.complete


def test_without_quota_it_stops_instead_of_waiting_for_hours(daemon_url):
    submission = send_http(lines(*map(str, range(52))), daemon_url, token=TOKEN)
    assert submission.sent == 50
    assert "50 of 52 lines were sent, then: the daemon answered 429: admin has no room left" in submission.stopped


def test_a_wrong_token_stops_at_once_and_says_so(daemon_url, sqlite_store):
    submission = send_http(lines("a", "b"), daemon_url, token="wrong")
    assert submission.sent == 0
    assert "0 of 2 lines were sent, then: the daemon answered 401" in (submission.stopped or "")
    assert sqlite_store.reports.find() == []


def test_a_daemon_that_is_not_there_is_named():
    submission = send_http(lines("a"), f"http://127.0.0.1:{free_port()}")
    assert "0 of 1 lines were sent" in (submission.stopped or "")
    assert "does not answer as an erratad" in (submission.stopped or "")


@pytest.mark.parametrize("url", ["http://a:b", "http://[::1"])
def test_what_is_no_url_is_refused_with_an_example(url):
    with pytest.raises(ConfigError, match=r"is not a URL .*http://127.0.0.1:8077"):
        send_http(lines("a"), url)


def test_an_address_without_a_protocol_is_said_to_be_none():
    assert "nowhere does not answer" in (send_http(lines("a"), "nowhere").stopped or "")


def test_a_broker_that_is_not_there_is_named_with_what_was_sent(monkeypatch):
    monkeypatch.setattr("connectors.kafka.client.BOOTSTRAP_TIMEOUT_S", 0.5)
    kafka = KafkaConfig(bootstrap_servers=[f"127.0.0.1:{free_port()}"])
    submission = send_kafka(lines("a"), kafka)
    assert (submission.sent, submission.complete) == (0, False)
    assert "ECONNREFUSED" in (submission.stopped or "")
    assert "no report is stored twice" in (submission.stopped or "")


def test_a_line_larger_than_the_topic_takes_is_named(kafka, monkeypatch):
    monkeypatch.setattr(connector.Producer.__init__, "__kwdefaults__", {"max_request_bytes": 2000})
    submission = send_kafka([*lines("a"), b"\n", *lines("b", response="x" * 3000)], kafka)
    assert "line 3 is too large for the topic" in (submission.stopped or "")
