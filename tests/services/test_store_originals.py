"""A store that is opened with a configuration takes in reports without personal data, by every way in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from daemon.config import Config
from daemon.errors import NotFoundError
from daemon.operations.commands import read_original
from daemon.records import ReportState, Trigger
from daemon.report_filter import ReportFilter
from daemon.store import Added, Store, open_store
from tests.fixtures.config import flagged
from tests.fixtures.stores import add

MAIL = "jane.doe@example.org"


@pytest.fixture
def config(make_config: Callable[..., Config], database_url: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("PRIVACY", "k" * 40)
    return make_config(store={"url": database_url}, privacy={"keep_original": True, "key_env": "PRIVACY"})


@pytest.fixture
def redacting(config: Config) -> Iterator[Store]:
    store = open_store(config)
    yield store
    store.close()


def test_what_is_stored_has_placeholders_and_the_original_is_read_by_admins_and_audited(
    config: Config, redacting: Store
) -> None:
    message = flagged(id="one", response=f"Write to {MAIL}.", reporter=MAIL)
    assert add(redacting, message) == [Added.STORED]
    stored = redacting.reports.get("one").flagged
    assert stored.response == "Write to <EMAIL_1>."
    assert stored.reporter.startswith("person-")
    assert redacting.reports.find(ReportFilter(search="jane.doe")) == []
    assert read_original(redacting, config, "one", actor="ada", reason="a complaint") == message
    entry = redacting.audit.entries(limit=1)[0]
    assert (entry.actor, entry.action, entry.reason) == ("ada", "read_original", "a complaint")
    add(redacting, plain := flagged())
    with pytest.raises(NotFoundError, match=r"privacy\.keep_original"):
        read_original(redacting, config, plain.id, actor="ada", reason="")


def test_an_erasure_deletes_the_original(config: Config, redacting: Store) -> None:
    add(redacting, flagged(id="one", response=f"Write to {MAIL}."))
    redacting.reports.erase("one", actor="ada", reason="asked")
    assert redacting.reports.get("one").state is ReportState.ERASED
    with pytest.raises(NotFoundError):
        read_original(redacting, config, "one", actor="ada", reason="")


def test_redeliveries_stay_redeliveries_and_caps_hold(redacting: Store) -> None:
    message = flagged(response=f"Write to {MAIL}.", reporter=MAIL)
    changed = message.model_copy(update={"response": "Write to bob@example.org."})
    assert add(redacting, message, message, changed) == [Added.STORED, Added.REDELIVERED, Added.CONFLICT]
    more = flagged(reporter=MAIL.upper())
    assert add(redacting, more, reporter_cap=1) == [Added.QUARANTINED]


def test_a_report_that_was_stored_before_redaction_is_still_known(config: Config, database_url: str) -> None:
    message = flagged(id="old", response=f"Write to {MAIL}.")
    for source in (database_url, config):
        store = open_store(source)
        try:
            assert add(store, message) == [Added.STORED if source is database_url else Added.REDELIVERED]
        finally:
            store.close()


def test_induced_answers_are_redacted_too(redacting: Store) -> None:
    run = redacting.inductions.start(trigger=Trigger.MANUAL, requested_by="op")
    assert run is not None
    redacting.inductions.file(
        run, [flagged(id="made", response=f"Write to {MAIL}.")], asked=1, position=1, reporter_cap=10
    )
    assert redacting.reports.get("made").flagged.response == "Write to <EMAIL_1>."
