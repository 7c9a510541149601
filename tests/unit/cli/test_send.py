"""`submit` and `import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.intake.submit import LineProblem, Submission
from daemon.store import Store
from tests.fixtures.cli import Command
from tests.fixtures.config import flagged


@pytest.fixture
def reports_file(tmp_path: Path) -> Path:
    path = tmp_path / "reports.jsonl"
    path.write_bytes(flagged().encode() + b"\n" + flagged().encode() + b"\n")
    return path


def test_submit_needs_a_broker_or_says_how_else(erratad: Command, reports_file: Path) -> None:
    done = erratad("submit", str(reports_file))
    assert done.exit_code == 2
    assert "intake.kafka" in done.stderr
    assert "--via http" in done.stderr


@pytest.mark.parametrize(
    ("submission", "code", "said"),
    [
        (Submission(lines=2, sent=2, outcomes={"stored": 2}), 0, "sent 2 of 2 reports: 2 stored"),
        (
            Submission(lines=2, sent=1, problems=(LineProblem(line=2, reason="conflict", detail="other content"),)),
            1,
            "reports.jsonl:2: conflict: other content",
        ),
        (Submission(lines=2, sent=1, stopped="after 1 of 2 lines: no answer"), 3, "after 1 of 2 lines"),
    ],
)
def test_submit_over_http_tells_what_became_of_the_lines(
    submission: Submission,
    code: int,
    said: str,
    erratad: Command,
    reports_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def send(lines: Any, url: str, **_: Any) -> Submission:
        asked.append(url)
        return submission

    monkeypatch.setattr("daemon.intake.submit.send_http", send)
    done = erratad("submit", str(reports_file), "--via", "http")
    assert done.exit_code == code
    assert said in done.output
    assert asked == ["http://127.0.0.1:8077"]


def test_submit_over_http_refuses_an_address_that_is_none(erratad: Command, reports_file: Path) -> None:
    done = erratad("submit", str(reports_file), "--via", "http", "--url", "localhost:8077")
    assert done.exit_code == 2
    assert "--url" in done.stderr
    unknown = erratad("submit", str(reports_file), "--via", "http", "--set", "http.port=0")
    assert unknown.exit_code == 2
    assert "http.port" in unknown.stderr


def test_submit_to_a_daemon_that_is_away_exits_with_3(erratad: Command, reports_file: Path) -> None:
    done = erratad("submit", str(reports_file), "--via", "http", "--url", "http://127.0.0.1:9", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["sent"] == 0


def test_import_stores_unsafe_rows_and_names_bad_ones(erratad: Command, sqlite_store: Store, tmp_path: Path) -> None:
    rows = [
        {"prompt": "How?", "response": "Like this.", "is_safe": False},
        {"prompt": "Why?", "response": "Because.", "is_safe": True},
        {"prompt": "When?", "is_safe": False},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    done = erratad("import", str(path))
    assert done.exit_code == 1
    assert done.stdout == "read 3 rows, 1 of them safe: 1 stored\n"
    assert "rows.jsonl:3: response:" in done.stderr
    assert len(sqlite_store.reports.find()) == 1
