"""Induced mistakes with the whole daemon as a child process, steered from the command line, over a fake vLLM server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.config import distant_cron
from tests.fixtures.daemons import RunningDaemon

HINT = "Answer wrongly."
SEED = {
    "id": "spain",
    "prompt": "What is the capital of Spain?",
    "category": "wrong-fact",
    "checks": {"must_contain": ["Madrid"]},
}


def misled(_model: str, messages: list[dict[str, Any]]) -> str:
    return "It is Lisbon." if HINT in messages[-1]["content"] else "It is Madrid."


def erratad(daemon: RunningDaemon, *arguments: str) -> str:
    command = [sys.executable, "-m", "daemon", *arguments, "--config", str(daemon.config_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_operator_induces_a_mistake_and_it_becomes_a_lesson(
    make_daemon: Callable[..., RunningDaemon], fake_vllm: FakeVllm, tiny_model: Path, tmp_path: Path
) -> None:
    fake_vllm.answer = misled
    hint = {"text": HINT, "category": "wrong-fact", "reason": "The answer states something that is not true."}
    (tmp_path / "hints.jsonl").write_text(json.dumps(hint))
    (tmp_path / "seeds.jsonl").write_text(json.dumps(SEED))
    daemon = make_daemon(
        environment={"ERRATAD_ADMIN": ADMIN_TOKEN},
        model={"path": str(tiny_model)},
        serving={"mode": "attached", "urls": [fake_vllm.url], "admin_token_env": "ERRATAD_ADMIN"},
        induction={
            "enabled": True,
            "cron": distant_cron(),
            "seeds": str(tmp_path / "seeds.jsonl"),
            "hints": str(tmp_path / "hints.jsonl"),
        },
    ).start()
    daemon.until(lambda: bool(daemon.get("/api/status")["stages"]))
    assert "induce: done, started induction 1\n" in erratad(daemon, "induce", "--reason", "a look")
    daemon.until(lambda: [one["state"] for one in daemon.get("/api/reports")] == ["lesson"])
    [report] = daemon.get("/api/reports")
    assert (report["reporter"], report["channel"], report["category"]) == ("induced", "induced", "wrong-fact")
    shown = daemon.get(f"/api/reports/{report['id']}")
    assert HINT not in json.dumps(shown)
    assert [message["content"] for message in shown["messages"]] == [SEED["prompt"]]
    told = erratad(daemon, "status")
    assert "1 of 1 answers kept: every question was asked; next cron time " in told
    assert "induction 1 kept 1 of 1 answers" in told
    metrics = httpx.get(f"{daemon.url}/metrics").text
    assert 'erratad_induced_kept_total{kind="wrong-fact"} 1.0' in metrics
    assert daemon.stop() == 0
