"""Importing annotated data."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.messages import Severity, decode
from daemon.errors import ErratadError
from daemon.intake.importer import BATCH, ImportSummary, RowError, flagged_in, import_file
from daemon.records import ReportState
from daemon.store import Added, Store

SINGLE = {"prompt": "How?", "response": "Like this.", "is_safe": False}
PAIR = {
    "prompt": "How?",
    "response_0": "Like this.",
    "response_1": "Better not.",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "response_0_severity_level": 3,
    "response_0_harm_category": {"Violence": False, "Mental Manipulation": True},
    "better_response_id": 1,
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as JSONL or CSV; texts are written unchanged."""

    def jsonl(*rows: dict[str, Any] | str | bytes, name: str = "rows.jsonl") -> Path:
        lines = [json.dumps(row) if isinstance(row, dict) else row for row in rows]
        encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
        (tmp_path / name).write_bytes(b"\n".join(encoded) + b"\n")
        return tmp_path / name

    return jsonl


def as_csv(*rows: dict[str, Any]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def test_an_unsafe_response_becomes_a_queued_report(write, sqlite_store: Store):
    summary = import_file(write(SINGLE), sqlite_store.reports)
    assert summary == ImportSummary(rows=1, safe=0, outcomes={Added.STORED: 1})
    [report] = sqlite_store.reports.find()
    assert report.state is ReportState.QUEUED
    assert (report.prompt_text, report.flagged.response, report.flagged.category) == ("How?", "Like this.", "harmful")
    assert (report.source.channel, report.source.offset) == ("import", None)


def test_safe_rows_are_counted_and_not_stored(write, sqlite_store: Store):
    summary = import_file(write({**SINGLE, "is_safe": True}, SINGLE), sqlite_store.reports)
    assert (summary.rows, summary.safe, summary.outcomes) == (2, 1, {Added.STORED: 1})


def test_the_safe_one_of_a_pair_corrects_the_unsafe_one():
    [flagged] = flagged_in(PAIR)
    assert (flagged.response, flagged.correction) == ("Like this.", "Better not.")
    assert (flagged.category, flagged.severity) == ("mental-manipulation", Severity.HIGH)
    assert "mental manipulation" in flagged.reason


def test_two_unsafe_responses_are_two_reports_without_correction():
    both = list(flagged_in({**PAIR, "is_response_1_safe": False}))
    assert [flagged.response for flagged in both] == ["Like this.", "Better not."]
    assert [flagged.correction for flagged in both] == [None, None]
    assert both[0].id != both[1].id


def test_a_pair_of_safe_responses_gives_nothing():
    assert list(flagged_in({**PAIR, "is_response_0_safe": True})) == []


def test_of_a_ranked_pair_the_second_is_flagged_and_the_first_corrects_it():
    [flagged] = flagged_in({"prompt": "How?", "response": ["Better not.", "Like this."]})
    assert (flagged.response, flagged.correction) == ("Like this.", "Better not.")


def test_facts_in_the_row_win_over_what_is_derived():
    [flagged] = flagged_in(
        {**SINGLE, "reason": "Rude.", "category": "rude", "severity": "low", "correction": "Kindly: no.", "model": "m"}
    )
    assert (flagged.reason, flagged.category, flagged.severity) == ("Rude.", "rude", Severity.LOW)
    assert (flagged.correction, flagged.model) == ("Kindly: no.", "m")


@pytest.mark.parametrize("row", [SINGLE, {k: str(v) for k, v in PAIR.items()}])
def test_csv_rows_mean_the_same_as_jsonl_rows(write, tmp_path, sqlite_store: Store, row):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbf" + as_csv(row, {**row, "prompt": "many\nlines"}))
    summary = import_file(path, sqlite_store.reports)
    assert (summary.rows, summary.problems) == (2, ())
    assert {report.prompt_text for report in sqlite_store.reports.find()} == {"How?", "many\nlines"}


def test_a_ranked_pair_in_csv_is_a_json_array(tmp_path, sqlite_store: Store):
    path = tmp_path / "rows.csv"
    path.write_bytes(as_csv({"prompt": "How?", "response": '["Better not.", "Like this."]'}))
    assert import_file(path, sqlite_store.reports).outcomes == {Added.STORED: 1}
    assert sqlite_store.reports.find()[0].flagged.correction == "Better not."


def test_importing_again_under_another_name_and_order_changes_nothing(write, sqlite_store: Store):
    rows = [{**SINGLE, "prompt": f"How {n}?"} for n in range(BATCH + 5)]
    first = import_file(write(*rows), sqlite_store.reports)
    again = import_file(write(*reversed(rows), name="other.jsonl"), sqlite_store.reports)
    assert first.outcomes == {Added.STORED: BATCH + 5}
    assert again.outcomes == {Added.REDELIVERED: BATCH + 5}


def test_other_facts_about_a_stored_response_are_reported_with_the_line(write, sqlite_store: Store):
    path = write(SINGLE, {**SINGLE, "reason": "Another reason."})
    summary = import_file(path, sqlite_store.reports)
    assert summary.outcomes == {Added.STORED: 1, Added.CONFLICT: 1}
    assert [(problem.line, problem.field) for problem in summary.problems] == [(2, "response")]


def test_the_cap_per_reporter_is_for_people_not_for_files(write, sqlite_store: Store):
    summary = import_file(write(*({**SINGLE, "prompt": f"How {n}?"} for n in range(450))), sqlite_store.reports)
    assert summary.outcomes == {Added.STORED: 450}


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("{", "row"),
        ("[" * 5000, "row"),
        ("[1]", "row"),
        (b'{"prompt": "\xff"}', "row"),
        ({"response": "x", "is_safe": False}, "prompt"),
        ({"prompt": "x", "is_safe": False}, "response"),
        ({"prompt": "x", "response": "y"}, "is_safe"),
        ({"prompt": "x", "response": "y", "is_safe": "perhaps"}, "is_safe"),
        ({"prompt": 7, "response": "y", "is_safe": False}, "prompt"),
        ({"prompt": "x\x00", "response": "y", "is_safe": False}, "prompt"),
        ({"prompt": "x", "response": ["y"]}, "response"),
        ({"prompt": "x", "response": ["y", 1]}, "response.1"),
        ({**PAIR, "is_response_0_safe": None}, "is_response_0_safe"),
        ({**PAIR, "response_1": ""}, "response_1"),
        ({**SINGLE, "category": "!?"}, "category"),
        ({**SINGLE, "severity": "extreme"}, "severity"),
        ({**SINGLE, "reason": 5}, "reason"),
    ],
    ids=repr,
)
def test_a_bad_row_is_named_by_line_and_field_and_stops_no_other(write, sqlite_store: Store, row, field):
    summary = import_file(write(SINGLE, "", row, {**SINGLE, "prompt": "Why?"}), sqlite_store.reports)
    assert [(problem.line, problem.field) for problem in summary.problems] == [(3, field)]
    assert summary.problems[0].detail
    assert summary.outcomes == {Added.STORED: 2}


def test_csv_that_is_not_utf8_or_too_wide_is_named_by_line(tmp_path, sqlite_store: Store):
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b"prompt,response,is_safe\nHow?,\xff,false\nHow?," + b"x" * 1_100_000 + b",false\nHow?,Like this.,false\n"
    )
    summary = import_file(path, sqlite_store.reports)
    assert [(problem.line, problem.field) for problem in summary.problems] == [(2, "response"), (3, "row")]
    assert summary.outcomes == {Added.STORED: 1}


def test_a_file_that_is_not_there_is_named(tmp_path, sqlite_store: Store):
    with pytest.raises(ErratadError, match=r"cannot read .*nowhere.csv: No such file"):
        import_file(tmp_path / "nowhere.csv", sqlite_store.reports)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(sorted({*SINGLE, *PAIR, "reason", "category", "severity", "correction"})), values)
)
def test_any_row_is_taken_or_refused_by_field(row):
    try:
        flagged = list(flagged_in(row))
    except RowError:
        return
    assert len(flagged) <= 2
    assert all(decode(report.encode(), max_bytes=10**9) == report for report in flagged)
