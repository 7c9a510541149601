"""Files of every kind: compression, encodings, delimiters, JSON in its forms, Parquet."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daemon.errors import ConfigError, ErratadError
from daemon.intake.formats.cells import RowError
from daemon.intake.formats.files import open_rows

TABLE = "prompt,response,is_safe\nCafé?,bad,False\n"
ROW = {"prompt": "Café?", "response": "bad", "is_safe": "False"}


def rows_of(path: Path, **options: str) -> list[tuple[int, Any]]:
    return list(open_rows(path, **options).rows())


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("encoding", "found", "guessed"),
    [
        ("utf-8", "utf-8", False),
        ("utf-8-sig", "utf-8-sig", False),
        ("utf-16", "utf-16", False),
        ("utf-16-le", "utf-16-le", False),
        ("utf-16-be", "utf-16-be", False),
        ("utf-32", "utf-32", False),
        ("cp1252", "cp1252", True),
    ],
)
def test_the_encoding_of_a_table_is_found(tmp_path, encoding, found, guessed):
    file = open_rows(written(tmp_path, "rows.csv", TABLE.encode(encoding)))
    assert (file.encoding, file.guessed) == (found, guessed)
    assert list(file.rows()) == [(2, ROW)]


def test_an_encoding_that_cannot_be_told_is_asked_for(tmp_path):
    path = written(tmp_path, "rows.csv", "prompt,response,is_safe\n你好吗,好,False\n".encode("gb18030"))
    with pytest.raises(ConfigError, match="give --encoding"):
        open_rows(path)
    assert rows_of(path, encoding="gb18030")[0][1]["prompt"] == "你好吗"
    with pytest.raises(ConfigError, match="is not an encoding"):
        open_rows(path, encoding="klingon")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "^"])
def test_the_delimiter_is_found(tmp_path, delimiter):
    lines = [["prompt", "response", "is_safe"], ["Yes, or; no | why\tso^?", "bad", "false"]]
    text = "".join(delimiter.join(f'"{value}"' for value in line) + "\r\n" for line in lines)
    file = open_rows(written(tmp_path, "rows.csv", text))
    assert file.delimiter == delimiter
    assert list(file.rows()) == [(2, dict(zip(*lines, strict=True)))]


def test_the_delimiter_can_be_given_and_can_stand_in_the_first_line(tmp_path):
    assert rows_of(written(tmp_path, "a.csv", "prompt#response\nQ#A\n"), delimiter="#") == [
        (2, {"prompt": "Q", "response": "A"})
    ]
    assert rows_of(written(tmp_path, "b.csv", "sep=;\nprompt;response\nQ;A\n")) == [
        (3, {"prompt": "Q", "response": "A"})
    ]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["rows.csv.gz", "rows"])
def test_compressed_files_are_read_by_their_content(tmp_path, compress, name):
    assert rows_of(written(tmp_path, name, compress(TABLE.encode()))) == [(2, ROW)]


def test_a_compressed_file_that_ends_early_is_named(tmp_path):
    path = written(tmp_path, "rows.csv.gz", gzip.compress(TABLE.encode() * 1000)[:-20])
    with pytest.raises(ErratadError, match="cannot read"):
        rows_of(path)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROW) + "\n",
        "\ufeff" + json.dumps(ROW),
        json.dumps([ROW]),
        json.dumps([ROW], indent=2),
        "[\n" + json.dumps(ROW) + "\n]\n",
        json.dumps(ROW, indent=4),
    ],
)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows", "rows.json.gz"])
def test_json_is_read_in_all_its_forms(tmp_path, text, name):
    content = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    assert [row for _, row in rows_of(written(tmp_path, name, content))] == [ROW]


def test_json_in_utf16_is_read(tmp_path):
    assert [row for _, row in rows_of(written(tmp_path, "rows.jsonl", json.dumps(ROW).encode("utf-16")))] == [ROW]


def test_a_line_separator_inside_of_a_text_ends_no_row(tmp_path):
    row = {"prompt": "a\u2028b\x85c\rd", "response": "x"}
    text = json.dumps(row, ensure_ascii=False) + "\n"
    assert rows_of(written(tmp_path, "rows.jsonl", text * 2)) == [(1, row), (2, row)]


def test_rows_of_an_array_have_their_lines_and_a_bad_one_stops_no_other(tmp_path):
    text = '[\n  {"prompt": "a"},\n  7,\n  {"prompt": b},\n  {\n    "prompt": "c"\n  }\n]\n'
    found = rows_of(written(tmp_path, "rows.json", text))
    assert [line for line, _ in found] == [2, 3, 4, 5]
    assert [row for _, row in found if isinstance(row, dict)] == [{"prompt": "a"}, {"prompt": "c"}]
    assert [row.field for _, row in found if isinstance(row, RowError)] == ["row", "row"]


def test_a_record_over_several_lines_has_the_number_of_its_first(tmp_path):
    found = rows_of(written(tmp_path, "rows.csv", 'prompt,response\n"a\nb",c\n\nd,e\n'))
    assert found == [(2, {"prompt": "a\nb", "response": "c"}), (5, {"prompt": "d", "response": "e"})]


def test_a_quote_that_never_closes_hides_no_other_row(tmp_path):
    found = rows_of(written(tmp_path, "rows.csv", 'prompt,response\n"a,b\nc,d\ne,f\n'))
    assert isinstance(found[0][1], RowError)
    assert found[1:] == [(3, {"prompt": "c", "response": "d"}), (4, {"prompt": "e", "response": "f"})]


def test_a_row_with_more_columns_than_the_header_is_named(tmp_path):
    [(line, row)] = rows_of(written(tmp_path, "rows.csv", "prompt,response\na, or b,c\n"))
    assert (line, row.detail) == (2, "has 3 columns, and the header has 2")


def test_parquet_is_read_with_nested_columns(tmp_path):
    rows = [{"prompt": "Q", "chosen": [{"role": "user", "content": "Q"}], "score": 1.5, "category": {"a": True}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert rows_of(tmp_path / "rows.parquet") == [(1, rows[0])]
    zipped = written(tmp_path, "rows.parquet.gz", gzip.compress((tmp_path / "rows.parquet").read_bytes()))
    assert rows_of(zipped) == [(1, rows[0])]


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = written(tmp_path, "rows.parquet", b"PAR1....PAR1")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        rows_of(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"erratad\[import\]"):
        rows_of(path)


@pytest.mark.parametrize(("content", "what"), [(b"PK\x03\x04xxxx", "ZIP"), (b"\x28\xb5\x2f\xfd...", "zstd")])
def test_other_files_are_named(tmp_path, content, what):
    with pytest.raises(ConfigError, match=what):
        open_rows(written(tmp_path, "rows.csv", content))


def test_an_empty_file_has_no_rows(tmp_path):
    for name in ("rows.csv", "rows.jsonl", "rows"):
        assert rows_of(written(tmp_path, name, "")) == []
