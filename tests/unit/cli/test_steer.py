"""Intents to the daemon: refused, queued or awaited; and the audit log."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.cli import options
from daemon.cli.options import operator
from daemon.records import AdapterState, Evidence, IntentKind, IntentState, ReportState
from daemon.store import Store
from tests.fixtures.cli import Command
from tests.fixtures.config import flagged
from tests.fixtures.learned import Learned
from tests.fixtures.stores import add, learn, run_to_verdict
from tests.fixtures.traffic import answered
from tests.unit.cli.conftest import BOTH_WAYS

pytestmark = BOTH_WAYS


@pytest.fixture
def daemon_runs(sqlite_store: Store) -> Iterator[Store]:
    """A store whose daemon answers every intent: it starts training and refuses everything else."""
    stop = threading.Event()
    sqlite_store.control.heartbeat({"schedule": "not training: 0 of 50 new lessons"}, owner="here")

    def answer() -> None:
        while not stop.wait(0.05):
            intent = sqlite_store.intents.pending(*IntentKind)
            if intent is not None:
                done = intent.kind is IntentKind.TRAIN
                state = IntentState.DONE if done else IntentState.REFUSED
                sqlite_store.intents.finish(intent.id, state, "started run 1" if done else "another one is live")

    thread = threading.Thread(target=answer)
    thread.start()
    yield sqlite_store
    stop.set()
    thread.join()


def test_train_waits_for_the_daemon_and_tells_the_outcome(erratad: Command, daemon_runs: Store) -> None:
    done = erratad("train", "--reason", "new data")
    assert (done.exit_code, done.stdout) == (0, "train: done, started run 1\n")
    [entry] = daemon_runs.audit.entries()
    assert (entry.action, entry.reason) == ("train", "new data")
    assert entry.actor


def test_a_refusal_exits_with_1_and_its_reason(erratad: Command, daemon_runs: Store) -> None:
    run_to_verdict(daemon_runs)
    done = erratad("promote", "1", "-m", "better", "--yes")
    assert done.exit_code == 1
    assert "refused, another one is live" in done.stdout


def test_without_a_daemon_the_intent_is_queued_and_that_is_said(erratad: Command, sqlite_store: Store) -> None:
    done = erratad("train")
    assert done.exit_code == 3
    assert "no daemon seems to run" in done.stderr
    assert sqlite_store.intents.pending(IntentKind.TRAIN) is not None


def test_no_wait_returns_at_once(erratad: Command, sqlite_store: Store) -> None:
    sqlite_store.control.heartbeat({"schedule": "busy"}, owner="here")
    done = erratad("train", "--no-wait", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["state"] == "pending"


def test_a_wait_that_ends_tells_what_the_stage_says(erratad: Command, sqlite_store: Store) -> None:
    sqlite_store.control.heartbeat({"schedule": "not starting: run 1 is training"}, owner="here")
    done = erratad("train", "--timeout", "0.1")
    assert done.exit_code == 1
    assert "not starting: run 1 is training" in done.stderr


def test_what_can_never_happen_is_refused_before_it_is_queued(erratad: Command, sqlite_store: Store) -> None:
    assert erratad("rollback", "-m", "worse", "--yes").exit_code == 1
    assert erratad("promote", "9", "-m", "better", "--yes").exit_code == 1
    assert sqlite_store.intents.pending(*IntentKind) is None


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
    assert erratad("audit").stdout == "No entries yet.\n"
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
    done = erratad("requeue", other, claim.report.id, "no-such-id")
    assert done.exit_code == 1
    assert done.stdout == f"requeued {claim.report.id}\n"
    assert len(done.stderr.splitlines()) == 2
    assert sqlite_store.reports.get(claim.report.id).state is ReportState.QUEUED


def test_evidence_is_looked_for_once_more_on_request(erratad: Command, sqlite_store: Store) -> None:
    claimed, found = learn(sqlite_store, flagged(), flagged())
    sqlite_store.evidence.record(claimed, Evidence.CLAIMED, "not in 3 answers of aligned-g000000")
    sqlite_store.evidence.record(found, Evidence.REPRODUCED, "in 3 of 3 answers of aligned-g000000")
    assert "gave it, claimed: not in 3 answers of aligned-g000000" in erratad("reports", claimed).stdout
    done = erratad("evidence", claimed, found, "--reason", "the model changed")
    assert (done.exit_code, done.stdout) == (1, f"waits: {claimed}\n")
    assert "is reproduced already" in done.stderr
    assert "unchecked: not looked at" in erratad("reports", claimed).stdout
    told = erratad("status").stdout
    assert "Evidence that the model gave the flagged answers: 1 claimed, 1 reproduced; 1 not looked at yet." in told


def test_erase_asks_before_it_cannot_be_undone(erratad: Command, sqlite_store: Store) -> None:
    [report_id] = learn(sqlite_store, flagged())
    unasked = erratad("erase", report_id, "-m", "a wish")
    assert unasked.exit_code == 2
    assert "--yes" in unasked.stderr
    assert sqlite_store.reports.get(report_id).state is ReportState.LESSON
    assert erratad("erase", report_id, "-m", "a wish", "--yes").exit_code == 0
    assert sqlite_store.reports.get(report_id).state is ReportState.ERASED


def test_the_certificate_of_an_erasure_is_printed_and_checked(
    erratad: Command, sqlite_store: Store, tmp_path: Path
) -> None:
    [report_id] = learn(sqlite_store, flagged())
    assert erratad("certificate", report_id).exit_code == 1
    assert "remains: copies made before" in erratad("erase", report_id, "--yes", "-m", "asked").stdout
    printed = erratad("certificate", report_id).stdout
    path = tmp_path / "certificate.json"
    path.write_text(printed)
    assert json.loads(printed)["public_key"] == erratad("certificate", "--key").stdout.strip()
    assert erratad("certificate", "--check", str(path)).stdout.startswith(f"genuine: report {report_id}")
    path.write_text(printed.replace("database", "nowhere"))
    changed = erratad("certificate", "--check", str(path))
    assert changed.exit_code == 1
    assert "was not signed by this installation" in changed.stderr
    assert erratad("certificate").exit_code == 2


def test_a_trial_is_shown_and_ended(erratad: Command, sqlite_store: Store) -> None:
    run = run_to_verdict(sqlite_store)
    sqlite_store.trials.start(run.generation, mode=AdapterState.CANARY, share=0.1, concurrency=2, actor="erratad")
    answered(sqlite_store, run.generation, 50, flags=1)
    assert "On trial: aligned-g000001, canary on 10%" in erratad("status").stdout
    assert re.search(r"flagged +\d of 50 +\d of 0 ", erratad("top", "--once").stdout), erratad("top", "--once").stdout
    rejected = erratad("reject", str(run.generation), "-m", "users complain", "--yes")
    assert rejected.stdout == "rejected generation 1\n"
    assert sqlite_store.trials.current() is None
    entry = sqlite_store.audit.entries(limit=1)[0]
    assert (entry.actor, entry.reason) == (operator(), "users complain")
    assert erratad("reject", str(run.generation), "-m", "again", "--yes").exit_code == 1


DANGEROUS = [
    ("rollback",),
    ("promote", "1"),
    ("approve", "1"),
    ("reject", "1"),
    ("erase", "some-report"),
    ("pause",),
    ("pause", "all"),
]


@pytest.mark.parametrize("command", DANGEROUS)
def test_without_a_terminal_a_dangerous_command_needs_a_reason_and_yes(
    erratad: Command, sqlite_store: Store, command: tuple[str, ...]
) -> None:
    for given, missing in (
        ((), "--reason"),
        (("--yes",), "--reason"),
        (("-m", " "), "--reason"),
        (("-m", "x"), "--yes"),
    ):
        refused = erratad(*command, *given)
        assert refused.exit_code == 2
        assert refused.stderr.startswith("erratad: nothing was done: ")
        assert missing in refused.stderr
    assert sqlite_store.audit.entries() == []


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "_on_terminal", lambda: True)


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_a_pause_of_everything_names_the_stages_and_asks(erratad: Command, sqlite_store: Store) -> None:
    refused = erratad("pause", input="release freeze\nn\n")
    assert refused.exit_code == 1
    assert re.search(r"Pause all stages.* \(ingest, induction, .*finetune, .*gauges\)\?", refused.stderr)
    assert sqlite_store.control.pauses() == []
    done = erratad("pause", input="release freeze\ny\n")
    assert done.exit_code == 0
    assert done.stdout.endswith("paused all\n")
    [paused] = sqlite_store.control.pauses()
    assert (paused.stage, paused.reason) == ("all", "release freeze")
    assert erratad("pause", "finetune").stdout == "paused finetune\n", "one stage is paused without a question"


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_a_rollback_names_both_generations(erratad: Command, learned: Learned) -> None:
    learned.store.control.heartbeat({"promotion": "busy"}, owner="here")
    asked = erratad("rollback", "-m", "worse", "--no-wait", input="n\n")
    assert "Replace aligned-g000001, which is live, by aligned-g000000 on every server" in asked.stderr
    assert learned.store.intents.pending(IntentKind.ROLLBACK) is None
    assert erratad("rollback", "-m", "worse", "--no-wait", input="y\n").exit_code == 0
    intent = learned.store.intents.pending(IntentKind.ROLLBACK)
    assert intent is not None
    assert intent.reason == "worse"


def test_requeue_asks_for_many_reports_only(erratad: Command) -> None:
    many = [f"report-{number}" for number in range(11)]
    assert erratad("requeue", *many).exit_code == 2
    assert erratad("requeue", *many[1:]).exit_code == 1, "there are no such reports"


def test_the_audit_log_names_the_person_behind_sudo(
    erratad: Command, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    assert erratad("pause", "promotion", "-m", "freeze").exit_code == 0
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setenv("LOGNAME", "bob")
    assert erratad("resume", "promotion", "-m", "over").exit_code == 0
    assert [entry.actor for entry in sqlite_store.audit.entries(limit=2)] == ["bob", "ann"]
