"""Stage "ingest" over messages that fail: it takes in the others, and gives heartbeats meanwhile."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka.consumer import Commit, RawRecord
from connectors.messages import Rejection
from daemon.config import Config
from daemon.config.intake import IntakeConfig, SourceConfig
from daemon.errors import StoreUnavailableError
from daemon.intake import refusals
from daemon.intake.attempts import Attempts
from daemon.intake.dead_letters import DeadLetter
from daemon.intake.stage import IngestStage
from daemon.privacy import detect
from daemon.privacy.redact import Redactor
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.life import life


class Topic:
    """A consumer of messages in memory, and the sender of their dead letters."""

    def __init__(self, *values: bytes) -> None:
        self.waiting = [
            RawRecord(
                topic="t", partition=0, offset=offset, key=None, headers=(), value=value, timestamp_ms=1_700_000_000_000
            )
            for offset, value in enumerate(values)
        ]
        self.letters: list[DeadLetter] = []
        self.partitions = frozenset({("t", 0)})
        self.missing = ()
        self.settled = True

    def poll(self, _timeout_s: float) -> list[RawRecord]:
        return self.waiting

    def commit(self, records: Sequence[RawRecord]) -> Commit:
        self.waiting = self.waiting[len(records) :]
        return Commit.DONE

    def rewind(self, _records: Sequence[RawRecord]) -> None:
        pass

    def take_losses(self) -> list[Any]:
        return []

    def lag(self) -> dict[tuple[str, int], int]:
        return {("t", 0): len(self.waiting)}

    def send(self, letters: Sequence[DeadLetter]) -> None:
        self.letters += letters


def stage_of(topic: Topic, store: Store, memory: Path | None = None, config: IntakeConfig | None = None) -> IngestStage:
    parts: Any = topic
    return IngestStage(
        store=store,
        config=config or IntakeConfig(),
        consumer=parts,
        dead_letters=parts,
        topics=["t"],
        attempts=Attempts(memory),
    )


def reports(*ids: str) -> list[bytes]:
    return [flagged(id=one, response=f"answer {one}").encode() for one in ids]


def stored(store: Store) -> set[str]:
    return {report.id for report in store.reports.find()}


def fails_for(broken: str, error: Exception, real: Callable[..., Any]) -> Callable[..., Any]:
    def failing(given: Any, *args: Any, **more: Any) -> Any:
        if broken in repr(given):
            raise error
        return real(given, *args, **more)

    return failing


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), RuntimeError("x"), OSError("x")])
def test_a_message_whose_decoding_fails_becomes_a_dead_letter(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(refusals, "decode", fails_for("broken", error, refusals.decode))
    topic = Topic(*reports("one", "broken", "two"))
    stage_of(topic, sqlite_store).step(life())
    assert stored(sqlite_store) == {"one", "two"}
    [letter] = topic.letters
    assert (letter.record.offset, letter.reason) == (1, Rejection.FAILED)
    assert type(error).__name__ in letter.detail
    assert topic.waiting == []


@pytest.mark.parametrize("ids", [("one", "broken", "two"), ("broken",)])
def test_a_message_that_the_store_cannot_take_becomes_a_dead_letter(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch, ids: tuple[str, ...]
) -> None:
    reports_store = sqlite_store.reports
    monkeypatch.setattr(reports_store, "add", fails_for("broken", ValueError("user text"), reports_store.add))
    topic = Topic(*reports(*ids))
    stage_of(topic, sqlite_store).step(life())
    assert stored(sqlite_store) == set(ids) - {"broken"}
    [letter] = topic.letters
    assert letter.reason == Rejection.FAILED
    assert "user text" not in letter.detail


def test_an_error_that_passes_costs_no_message(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [ValueError(), ValueError(), ValueError()]
    real = sqlite_store.reports.add

    def failing(*args: Any, **more: Any) -> Any:
        if errors:
            raise errors.pop()
        return real(*args, **more)

    monkeypatch.setattr(sqlite_store.reports, "add", failing)
    topic = Topic(*reports("one", "two"))
    stage_of(topic, sqlite_store).step(life())
    assert stored(sqlite_store) == {"one", "two"}
    assert topic.letters == []


def test_an_error_of_all_messages_is_not_blamed_on_them(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store.reports, "add", fails_for("", ValueError("a fault"), sqlite_store.reports.add))
    topic = Topic(*reports("one", "two"))
    with pytest.raises(ValueError, match="a fault"):
        stage_of(topic, sqlite_store).step(life())
    assert topic.letters == []
    assert len(topic.waiting) == 2


def test_an_outage_costs_no_message(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = Topic(*reports("one"))
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_store.reports, "add", fails_for("", StoreUnavailableError("gone"), lambda: None))
        with pytest.raises(StoreUnavailableError):
            stage_of(topic, sqlite_store).step(life())
    assert (topic.letters, len(topic.waiting)) == ([], 1)
    stage_of(topic, sqlite_store).step(life())
    assert stored(sqlite_store) == {"one"}


class Death(BaseException):
    """The process ends here: no handler runs that a dying process would not run."""


def test_a_message_that_kills_the_process_becomes_a_dead_letter(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory = tmp_path / "intake.json"
    monkeypatch.setattr(refusals, "decode", fails_for("deadly", Death(), refusals.decode))  # type: ignore[arg-type]
    topic = Topic(*reports("one", "deadly", "two"))
    deaths = 0
    while topic.waiting:
        stage = stage_of(topic, sqlite_store, memory)
        before = memory.read_bytes()
        monkeypatch.setattr(Attempts, "_write", _that_dies(Attempts._write))
        try:
            stage.step(life())
        except Death:
            deaths += 1
            assert memory.read_bytes() != before
        monkeypatch.undo()
        monkeypatch.setattr(refusals, "decode", fails_for("deadly", Death(), refusals.decode))  # type: ignore[arg-type]
    assert deaths == 3
    assert stored(sqlite_store) == {"one", "two"}
    [letter] = topic.letters
    assert "died 3 times" in letter.detail


def _that_dies(write: Callable[..., None]) -> Callable[..., None]:
    """A dying process writes nothing more."""

    def writing(attempts: Attempts, in_work: list[str]) -> None:
        if not isinstance(sys.exc_info()[1], Death):
            write(attempts, in_work)

    return writing


def test_each_message_of_a_long_batch_gives_a_heartbeat(sqlite_store: Store) -> None:
    beats: list[int] = []
    topic = Topic(*reports(*map(str, range(30))), b"not json")
    stage_of(topic, sqlite_store).step(life(heartbeat=lambda: beats.append(len(topic.waiting))))
    assert len(beats) > 30


def test_hostile_rules_do_not_hold_up_the_messages_behind_them(sqlite_store: Store) -> None:
    valid = json.loads(flagged(id="x").encode())
    rules = [
        {"json_schema": {"allOf": [{}] * 20_000}},
        {"json_schema": {"required": [1, "a"] * 20_000}},
        {"regex": r"(?:[\w&&\p{L}]{1000}|b){1000}" * 20},
        {"must_contain": ["a"] * 100_000},
    ]
    hostile = [json.dumps({**valid, "id": f"h{at}", "checks": checks}).encode() for at, checks in enumerate(rules)]
    topic = Topic(*hostile, *reports("behind"))
    stage_of(topic, sqlite_store).step(life())
    assert stored(sqlite_store) == {"behind"}
    assert {letter.reason for letter in topic.letters} == {Rejection.SCHEMA_VIOLATION}
    assert len(topic.letters) == len(hostile)


def test_a_message_with_too_much_personal_data_becomes_a_dead_letter_alone(
    sqlite_store: Store, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "MAX_PLACES", 3)
    sqlite_store.reports._redactor = Redactor(make_config())
    full = flagged(id="full", response=" ".join(f"u{number}@example.org" for number in range(4))).encode()
    topic = Topic(*reports("before"), full, *reports("behind"))
    stage_of(topic, sqlite_store).step(life())
    assert stored(sqlite_store) == {"before", "behind"}
    [letter] = topic.letters
    assert (letter.record.offset, letter.reason) == (1, Rejection.OVERSIZED)
    assert "personal data" in letter.detail


def test_messages_beyond_the_quota_of_their_topic_become_dead_letters_and_hold_nothing_up(sqlite_store: Store) -> None:
    config = IntakeConfig(max_reports_per_day=1, sources=[SourceConfig(name="shop", topic="t", max_reports_per_day=2)])
    topic = Topic(*reports("one", "two", "three"))
    stage_of(topic, sqlite_store, config=config).step(life())
    assert stored(sqlite_store) == {"one", "two"}
    [letter] = topic.letters
    assert (letter.record.offset, letter.reason) == (2, Rejection.QUOTA)
    assert "shop has no room left in 24 hours: 2 reports" in letter.detail
    assert topic.waiting == []
