"""Importing annotated data."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.errors import ConfigError, ErratadError
from daemon.intake.formats.reports import NOTHING_SAYS, ImportOptions
from daemon.intake.importer import BATCH, LeftOut, import_file, survey
from daemon.records import ReportState
from daemon.store import Added, Store
from tests.unit.intake.formats.test_answers import PAIR, SINGLE


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
    assert (summary.survey.rows, summary.survey.left_out, summary.problems) == (1, {}, ())
    assert summary.outcomes == {Added.STORED: 1}
    [report] = sqlite_store.reports.find()
    assert report.state is ReportState.QUEUED
    assert (report.prompt_text, report.flagged.response, report.flagged.category) == ("How?", "Like this.", "harmful")
    assert (report.source.channel, report.source.offset) == ("import", None)


PUBLIC = {
    "beavertails.jsonl": b'{"prompt": "How to lie?", "response": "Just do", "category": {"privacy_violation": true, '
    b'"violence": false}, "is_safe": false}\n',
    "bom.csv": b"\xef\xbb\xbfprompt,response,is_safe\nBOM question,bad,False\n",
    "hh_rlhf.jsonl": b'{"chosen": "\\n\\nHuman: How do I pick a lock?\\n\\nAssistant: Ask a locksmith.", '
    b'"rejected": "\\n\\nHuman: How do I pick a lock?\\n\\nAssistant: Use a pin."}\n',
    "rows.csv.gz": gzip.compress(b"prompt,response,is_safe\ngz csv q,bad,False\n"),
    "semicolon.csv": b"prompt;response;is_safe\nHow old is the sun;I will not say;false\n",
    "tab.tsv": b"Prompt\tResponse\tIs_Safe\nTab question\tbad\t0\n",
    "toxic_chat.jsonl": b'{"conversation_hash": "h", "conversation": [{"role": "user", "content": "Hi", '
    b'"toxic": false}, {"role": "assistant", "content": "Bad", "toxic": true}], "toxic": true}\n',
    "ultrafeedback.jsonl": b'{"prompt": "Name a fruit", "chosen": [{"role": "user", "content": "Name a fruit"}, '
    b'{"role": "assistant", "content": "Apple"}], "rejected": [{"role": "user", "content": "Name a fruit"}, '
    b'{"role": "assistant", "content": "Car"}]}\n',
    "utf16.csv": "prompt,response,is_safe\nUTF16 question,bad,False\n".encode("utf-16"),
}


@pytest.mark.parametrize(
    ("name", "question", "answer", "correction", "category"),
    [
        ("beavertails.jsonl", "How to lie?", "Just do", None, "privacy-violation"),
        ("bom.csv", "BOM question", "bad", None, "harmful"),
        ("hh_rlhf.jsonl", "How do I pick a lock?", "Use a pin.", "Ask a locksmith.", None),
        ("rows.csv.gz", "gz csv q", "bad", None, "harmful"),
        ("semicolon.csv", "How old is the sun", "I will not say", None, "harmful"),
        ("tab.tsv", "Tab question", "bad", None, "harmful"),
        ("toxic_chat.jsonl", "Hi", "Bad", None, "toxic"),
        ("ultrafeedback.jsonl", "Name a fruit", "Car", "Apple", None),
        ("utf16.csv", "UTF16 question", "bad", None, "harmful"),
    ],
)
def test_a_file_in_a_public_shape_is_stored_as_it_means(
    tmp_path, sqlite_store: Store, name, question, answer, correction, category
):
    path = tmp_path / name
    path.write_bytes(PUBLIC[name])
    assert import_file(path, sqlite_store.reports).problems == ()
    [report] = sqlite_store.reports.find()
    assert (report.prompt_text, report.flagged.response) == (question, answer)
    assert (report.flagged.correction, report.flagged.category) == (correction, category)
    again = import_file(path, sqlite_store.reports)
    assert again.outcomes == {Added.REDELIVERED: 1}


def test_safe_rows_are_counted_and_not_stored(write, sqlite_store: Store):
    summary = import_file(write({**SINGLE, "is_safe": True}, SINGLE), sqlite_store.reports)
    assert (summary.survey.rows, summary.outcomes) == (2, {Added.STORED: 1})
    assert summary.survey.left_out == {"is_safe says that the answer is good": LeftOut(rows=1, first_line=1)}


@pytest.mark.parametrize("row", [SINGLE, {k: str(v) for k, v in PAIR.items()}])
def test_csv_rows_mean_the_same_as_jsonl_rows(write, tmp_path, sqlite_store: Store, row):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbf" + as_csv(row, {**row, "prompt": "many\nlines"}))
    summary = import_file(path, sqlite_store.reports)
    assert (summary.survey.rows, summary.problems) == (2, ())
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


def test_another_correction_of_a_stored_answer_is_not_lost(write, sqlite_store: Store):
    path = write(SINGLE, {**SINGLE, "correction": "Better not."})
    summary = import_file(path, sqlite_store.reports)
    assert summary.problems == ()
    assert Added.CONFLICT not in summary.outcomes
    assert {report.flagged.correction for report in sqlite_store.reports.find()} == {None, "Better not."}


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
        ({"prompt": "x", "response": "y", "is_safe": "perhaps"}, "is_safe"),
        ({"prompt": 7, "response": "y", "is_safe": False}, "prompt"),
        ({"prompt": "x\x00", "response": "y", "is_safe": False}, "prompt"),
        ({"prompt": "x", "response": ["y"]}, "response"),
        ({"prompt": "x", "response": ["y", 1]}, "response.1"),
        ({**PAIR, "response_1": ""}, "response_1"),
        ({**SINGLE, "category": "???"}, "category"),
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
        b"prompt,response,is_safe\nHow?,\xff,false\nHow?,"
        + b"x" * 1_100_000
        + b",false\nHow?,Like this.,false\n"
        + "Où?,Là.,true\n".encode()
    )
    summary = import_file(path, sqlite_store.reports)
    assert [(problem.line, problem.field) for problem in summary.problems] == [(2, "response"), (3, "row")]
    assert summary.outcomes == {Added.STORED: 1}


def test_a_survey_stores_nothing_and_shows_the_first_two_reports(write):
    rows = [{**SINGLE, "prompt": f"How {n}?"} for n in range(5)]
    found = survey(write({"prompt": "x", "response": "y", "is_safe": None}, *rows, "{"))
    assert (found.rows, found.reports, found.columns) == (7, 5, ("prompt", "response", "is_safe"))
    assert [(line, flagged.messages[0].content) for line, flagged in found.first] == [(2, "How 0?"), (3, "How 1?")]
    assert found.left_out == {"is_safe is empty": LeftOut(rows=1, first_line=1)}
    assert [(problem.line, problem.field) for problem in found.problems] == [(7, "row")]


def test_rows_that_judge_nothing_need_an_option(write, sqlite_store: Store):
    path = write({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Bad"}]})
    assert survey(path).left_out == {NOTHING_SAYS: LeftOut(rows=1, first_line=1)}
    options = ImportOptions(category="style", reason="Too short.")
    assert import_file(path, sqlite_store.reports, options).outcomes == {Added.STORED: 1}
    [report] = sqlite_store.reports.find()
    assert (report.flagged.response, report.flagged.category, report.flagged.reason) == ("Bad", "style", "Too short.")


@pytest.mark.parametrize("text", ["Frage;Antwort\na;b\n", "one column\nx\n", '{"Frage": 1}\n{"Antwort": 2}\n'])
def test_a_file_of_other_columns_is_one_sentence_with_their_names(tmp_path, text):
    path = tmp_path / "rows"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"its columns are (Frage, Antwort|one column)\. Say which"):
        survey(path)


def test_columns_are_mapped(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("Frage;Antwort;Gut\na;b;nein\nc;d;false\n")
    columns = {"prompt": "Frage", "response": "antwort", "is_good": "Gut"}
    found = survey(path, ImportOptions(columns=columns))
    assert (found.reports, [(problem.line, problem.field) for problem in found.problems]) == (1, [(2, "is_good")])
    with pytest.raises(ConfigError, match=r"--map: .* has no column 'Fragen'; its columns are Frage, Antwort, Gut"):
        survey(path, ImportOptions(columns={"prompt": "Fragen"}))


@pytest.mark.parametrize("header", ["Prompt,Response,Is Safe", " prompt ,RESPONSE,is-safe"])
def test_headers_may_be_written_in_other_ways(tmp_path, header):
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\nHow?,Like this.,FALSE\n")
    assert survey(path).reports == 1


def test_a_report_above_the_size_limit_is_named(write):
    found = survey(write({**SINGLE, "response": "x" * 5000}, SINGLE), ImportOptions(max_bytes=4000))
    assert (found.reports, [(problem.line, problem.field) for problem in found.problems]) == (1, [(1, "row")])


def test_a_file_that_is_not_there_is_named(tmp_path, sqlite_store: Store):
    with pytest.raises(ErratadError, match=r"cannot read .*nowhere.csv: No such file"):
        import_file(tmp_path / "nowhere.csv", sqlite_store.reports)
