"""Reports as CSV and JSONL."""

from __future__ import annotations

import csv
import io
import json

from daemon.operations.export import FIELDS, Format, exported
from daemon.report_filter import ALL, ReportFilter
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.stores import add


def table(store: Store, wanted: ReportFilter = ALL) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO("".join(exported(store, wanted, Format.CSV)), newline="")))


FORMULAS = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    '=HYPERLINK("http://x","y")',
    "  =1",
    "\t=1",
    "\n=1",
    "\uff1dcmd",
    "\uff201",
)


def test_no_cell_begins_like_a_formula(sqlite_store: Store) -> None:
    add(sqlite_store, *(flagged(reason=one, reporter=one) for one in FORMULAS), flagged(reason="1 = 1"))
    rows = table(sqlite_store)
    assert sorted(row["reason"].strip("'\t\n ") for row in rows) == sorted([*map(str.strip, FORMULAS), "1 = 1"])
    assert all(row["reason"].startswith("'") for row in rows if row["reason"] != "1 = 1")
    assert all(row["reporter"].startswith("'") for row in rows if row["reason"] != "1 = 1")


def test_both_formats_hold_the_fields_of_the_list_and_text_as_it_is(sqlite_store: Store) -> None:
    add(sqlite_store, flagged(id="a", reason='Says "no",\nand Zürich.', tenant="east"), flagged(id="b"))
    first, _ = sorted(table(sqlite_store), key=lambda row: row["id"])
    assert tuple(first) == FIELDS
    assert (first["reason"], first["tenant"], first["evidence_at"]) == ('Says "no",\nand Zürich.', "east", "")
    lines = "".join(exported(sqlite_store, ReportFilter(tenant="east"), Format.JSONL)).splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ['Says "no",\nand Zürich.']


def test_without_a_report_a_csv_has_its_head_and_jsonl_nothing(sqlite_store: Store) -> None:
    assert "".join(exported(sqlite_store, ALL, Format.CSV)) == ",".join(FIELDS) + "\r\n"
    assert "".join(exported(sqlite_store, ALL, Format.JSONL)) == ""
