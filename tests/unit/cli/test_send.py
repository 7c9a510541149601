"""`submit` and `import`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml

from daemon.cli import send
from daemon.config.intake import KafkaConfig
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


@pytest.fixture
def with_sources(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sources: one sends to a topic, one with a token."""
    monkeypatch.setenv("OTHER", "o" * 40)
    monkeypatch.setenv("APP", "t" * 40)
    tokens = [
        {"name": "other", "role": "admin", "token_env": "OTHER"},
        {"name": "app-backend", "role": "reporter", "token_env": "APP"},
    ]
    sources = [{"name": "shop", "topic": "shop.flagged"}, {"name": "app", "token": "app-backend"}]
    intake = {"sources": sources, "kafka": {"bootstrap_servers": ["127.0.0.1:1"]}}
    given = yaml.safe_load(config_file.read_text()) | {"intake": intake, "http": {"tokens": tokens}}
    config_file.write_text(yaml.safe_dump(given))


@pytest.mark.usefixtures("with_sources")
def test_submit_as_a_source_goes_to_its_topic_or_with_its_token(
    erratad: Command, reports_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str]] = []

    def to_topic(_: Any, kafka: KafkaConfig, **__: Any) -> Submission:
        sent.append(("topic", kafka.topic))
        return Submission(lines=2, sent=2)

    def with_token(*_: Any, token: str, **__: Any) -> Submission:
        sent.append(("token", token))
        return Submission(lines=2, sent=2)

    monkeypatch.setattr("daemon.intake.submit.send_kafka", to_topic)
    monkeypatch.setattr("daemon.intake.submit.send_http", with_token)
    assert erratad("submit", str(reports_file), "--source", "shop").exit_code == 0
    assert erratad("submit", str(reports_file), "--source", "app", "--via", "http").exit_code == 0
    assert sent == [("topic", "shop.flagged"), ("token", "t" * 40)]


@pytest.mark.usefixtures("with_sources")
@pytest.mark.parametrize(
    ("source", "via", "said"),
    [
        ("unknown", "kafka", "no such name (shop, app)"),
        ("app", "kafka", "it has no topic; send --via http"),
        ("shop", "http", "it has no token; send without --via http"),
    ],
)
def test_submit_as_a_source_that_cannot_send_so_says_how_else(
    erratad: Command, reports_file: Path, source: str, via: str, said: str
) -> None:
    done = erratad("submit", str(reports_file), "--source", source, "--via", via)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())


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


ROWS = [
    {"prompt": "How?", "response": "Like this.", "is_safe": False},
    {"prompt": "Why?", "response": "Because.", "is_safe": True},
    {"prompt": "When?", "is_safe": False},
]


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


def test_import_says_what_it_understood_and_names_bad_rows(
    erratad: Command, sqlite_store: Store, rows_file: Path
) -> None:
    done = erratad("import", str(rows_file), "--yes")
    assert done.exit_code == 1
    assert done.stdout == (
        f"{rows_file}: JSON, utf-8; columns: prompt, response, is_safe\n"
        "3 rows: 1 report\n"
        "  1 row: labelled answers\n"
        "  line 1: harmful: Annotators marked the response as harmful.\n"
        "    How? -> Like this.\n"
        "  left out, 1 row (first: line 2): is_safe says that the answer is good\n"
        "  cannot be read, 1 row (first: line 3)\n"
        "imported: 1 stored\n"
    )
    assert "rows.jsonl:3: response:" in done.stderr
    assert len(sqlite_store.reports.find()) == 1


def test_import_needs_yes_where_it_cannot_ask(erratad: Command, sqlite_store: Store, rows_file: Path) -> None:
    done = erratad("import", str(rows_file))
    assert done.exit_code == 2
    assert "--yes" in done.stderr
    assert "3 rows: 1 report" in done.stdout
    assert sqlite_store.reports.find() == []


@pytest.mark.parametrize(("answer", "stored"), [("y", 1), ("n", 0)])
def test_import_asks_on_a_terminal(
    erratad: Command, sqlite_store: Store, rows_file: Path, monkeypatch: pytest.MonkeyPatch, answer: str, stored: int
) -> None:
    monkeypatch.setattr(send, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr(typer, "confirm", lambda text, err: (text, err) == ("Store 1 report?", True) and answer == "y")
    done = erratad("import", str(rows_file))
    assert done.exit_code == 1
    assert len(sqlite_store.reports.find()) == stored


def test_a_dry_run_stores_nothing_and_needs_no_yes(erratad: Command, sqlite_store: Store, rows_file: Path) -> None:
    done = erratad("import", str(rows_file), "--dry-run", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["rows"], found["reports"], found["outcomes"]) == (3, 1, {})
    assert found["left_out"] == [{"reason": "is_safe says that the answer is good", "rows": 1, "first_line": 2}]
    assert [problem["line"] for problem in found["problems"]] == [3]
    assert sqlite_store.reports.find() == []


def test_a_second_import_makes_no_second_report(erratad: Command, sqlite_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress("Frage;Antwort\nHow?;Like this.\n".encode("utf-16")))
    options = ("--map", "prompt=Frage", "--map", "response=Antwort", "--category", "Wrong Fact", "--reason", "Wrong.")
    first = erratad("import", str(path), *options, "--yes")
    again = erratad("import", str(path), *options, "--yes")
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert again.stdout.endswith("imported: 1 redelivered\n")
    [report] = sqlite_store.reports.find()
    assert (report.flagged.category, report.flagged.reason) == ("wrong-fact", "Wrong.")


def test_an_import_that_the_operator_vouches_for_is_trusted_and_audited(
    erratad: Command, sqlite_store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Hi?", "response": "Go away.", "is_good": false}\n')
    assert erratad("import", str(path), "--yes").exit_code == 0
    assert sqlite_store.audit.entries() == []
    assert erratad("import", str(path), "--yes", "--trusted").exit_code == 0
    assert {one.source.principal for one in sqlite_store.reports.find()} == {"import", "trusted-import"}
    [entry] = sqlite_store.audit.entries()
    assert (entry.action, entry.subject) == ("trusted_import", "rows.jsonl")
    assert entry.reason == "1 report, without evidence or confirmation"


def test_import_of_rows_that_judge_nothing_asks_for_a_reason(
    erratad: Command, sqlite_store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": "Q", "input": "", "output": "A"}]))
    done = erratad("import", str(path), "--yes")
    assert done.exit_code == 2
    assert "give --reason" in done.stderr
    assert sqlite_store.reports.find() == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--map", "prompt"), "give COLUMN=NAME"),
        (("--map", "colour=prompt"), "COLUMN is one of prompt"),
        (("--map", "prompt=frage"), "has no column 'frage'; its columns are prompt, response, is_safe"),
        (("--delimiter", ";;"), "--delimiter"),
        (("--category", "???"), "--category"),
        (("--encoding", "klingon"), "is not an encoding"),
    ],
)
def test_import_refuses_wrong_options(
    erratad: Command, rows_file: Path, sqlite_store: Store, options: tuple[str, ...], said: str
) -> None:
    done = erratad("import", str(rows_file), *options, "--yes")
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("\u2502", " ").split())


EXPORTS = Path(__file__).parents[2] / "fixtures" / "products"


def test_an_export_of_open_webui_is_imported_once(erratad: Command, sqlite_store: Store) -> None:
    file = str(EXPORTS / "open_webui_export.json")
    done = erratad("import", "--from", "open-webui", file, "--yes")
    assert done.exit_code == 0
    assert "6 rows: 5 reports\n  5 rows: feedback of Open WebUI\n" in done.stdout
    assert "left out, 1 row (first: line" in done.stdout
    assert "the answer is from another model than aligned: other-model" in done.stdout
    assert done.stdout.endswith("imported: 4 stored, 1 kept\n")
    again = erratad("import", "--from", "open-webui", file, "--yes")
    assert again.stdout.endswith("imported: 5 redelivered\n")
    assert len(sqlite_store.reports.find()) == 4


def test_scores_of_langfuse_need_the_servers_records(erratad: Command, sqlite_store: Store, config_file: Path) -> None:
    file = str(EXPORTS / "langfuse_scores_v2.json")
    without = erratad("import", "--from", "langfuse", file, "--yes")
    assert "left out, 4 rows" in without.stdout
    assert "serving.exchanges is off" in without.stdout
    values = yaml.safe_load(config_file.read_text())
    values.setdefault("serving", {})["exchanges"] = {"enabled": True}
    config_file.write_text(yaml.safe_dump(values))
    done = erratad("import", "--from", "langfuse", file, "--yes")
    assert done.stdout.endswith("imported: 4 waiting\n")
    assert "completion chatcmpl-4f1c -> not known yet" in done.stdout


@pytest.mark.parametrize(
    "options",
    [("--edits",), ("--model", "x"), ("--from", "langfuse", "--map", "prompt=x"), ("--from", "langfuse", "-m", "bad")],
)
def test_options_that_do_not_go_together_are_refused(
    erratad: Command, rows_file: Path, options: tuple[str, ...]
) -> None:
    done = erratad("import", str(rows_file), *options, "--yes")
    assert done.exit_code == 2
    assert "--from" in done.stderr


def test_a_file_of_something_else_names_each_bad_item(erratad: Command, rows_file: Path) -> None:
    done = erratad("import", "--from", "open-webui", str(rows_file), "--yes")
    assert done.exit_code == 1
    assert "rows.jsonl:1: type: is missing" in done.stderr
