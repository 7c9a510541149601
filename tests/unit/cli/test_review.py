"""The review queue and its decisions."""

from __future__ import annotations

import json
import re

import pytest

from daemon.cli.options import operator
from daemon.records import ReportState
from daemon.store import Store
from tests.fixtures.cli import Command
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, learn
from tests.unit.cli.conftest import BOTH_WAYS

pytestmark = BOTH_WAYS


@pytest.fixture
def to_review(sqlite_store: Store) -> Store:
    """Two analyses not yet reviewed, and a quarantined report."""
    learn(sqlite_store, *(flagged(id=name, checks={"must_contain": ["Canberra"]}) for name in ("first", "second")))
    add(sqlite_store, flagged(id="flood-1", reporter="kiosk"), flagged(id="flood-2", reporter="kiosk"), reporter_cap=1)
    return sqlite_store


def test_review_lists_what_waits_and_shows_one(erratad: Command, to_review: Store) -> None:
    listed = erratad("review", "list")
    assert re.search(r"^flood-2 +quarantined", listed.stdout, re.MULTILINE)
    assert re.search(r"^first +analysis", listed.stdout, re.MULTILINE)
    assert "1 more in the queue" in erratad("review", "list", "--limit", "1").stdout
    queue = json.loads(erratad("review", "list", "--json").stdout)
    assert (queue["quarantined_waiting"], queue["analyses_waiting"]) == (1, 2)
    assert "It is wrong." in erratad("review", "show", "first").stdout


def test_review_accepts_and_rejects_in_the_name_of_the_user(erratad: Command, to_review: Store) -> None:
    assert erratad("review", "accept", "flood-2", "first").stdout == "accepted flood-2\naccepted first\n"
    assert to_review.reports.get("flood-2").state is ReportState.QUEUED
    assert erratad("review", "reject", "second", "no-such-id", "--reason", "nonsense").exit_code == 1
    assert to_review.reports.get("second").state is ReportState.BURIED
    assert erratad("review", "reject", "first").exit_code == 2, "a rejection needs its reason"
    assert erratad("review", "list").stdout == "Nothing to review.\n"
    told = [(entry.actor, entry.action, entry.subject, entry.reason) for entry in to_review.audit.entries(limit=3)]
    assert told == [
        (operator(), "reject", "second", "nonsense"),
        (operator(), "accept", "first", "reviewed on the command line"),
        (operator(), "accept", "flood-2", "reviewed on the command line"),
    ]


def test_review_corrects_what_is_given_and_keeps_the_rest(erratad: Command, to_review: Store) -> None:
    good = "It is Canberra."
    assert erratad("review", "correct", "first", "--correction", good, "-m", "checked").exit_code == 0
    assert erratad("review", "correct", "first", "--analysis", "It names a larger town.").exit_code == 0
    lesson = to_review.reports.lesson("first")
    assert lesson is not None
    assert (lesson.analysis, lesson.correction, lesson.reviewed_by) == ("It names a larger town.", good, operator())
    refused = erratad("review", "correct", "first", "--correction", "It is Sydney.")
    assert refused.exit_code == 1
    assert "Canberra" in refused.stderr
    assert erratad("review", "correct", "first", "--analysis", " ").exit_code == 1
    assert "no analysis to correct" in erratad("review", "correct", "flood-2", "--analysis", "x").stderr
    assert erratad("review", "correct", "first").exit_code == 2


def test_review_corrects_in_an_editor(erratad: Command, to_review: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "sed -i -e 's/wrong/misleading/' -e '$a It is Canberra.'")
    assert erratad("review", "correct", "first", "--edit").exit_code == 0
    lesson = to_review.reports.lesson("first")
    assert lesson is not None
    assert (lesson.analysis, lesson.correction) == ("It is misleading.", "It is Canberra.")
    monkeypatch.setenv("EDITOR", "true")
    assert "nothing was changed" in erratad("review", "correct", "first", "--edit").stderr
    monkeypatch.setenv("EDITOR", "no-such-editor")
    assert "EDITOR" in erratad("review", "correct", "first", "--edit").stderr
