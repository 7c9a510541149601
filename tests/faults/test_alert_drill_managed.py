"""The alert drill in mode `managed`: a promotion makes the daemon's own vLLM server crash, again and again."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import yaml

from daemon.records import ReportState
from daemon.serving.process import end_left_over
from tests.fakes.vllm_managed import DEADLY
from tests.fixtures.daemons import RunningDaemon
from tests.fixtures.drill import ROOT, Watched, watching
from tests.fixtures.http import CLIENT
from tests.fixtures.ports import free_port

CHILD = [sys.executable, "-m", "tests.fakes.vllm_managed"]
MOST_S = 20.0
"""A restart takes some seconds, and the alert asks for three in half an hour: 6 s would be too short for these."""
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def managed(tiny_model: Path, tmp_path: Path) -> Iterator[Watched]:
    port, server_port = free_port(), free_port()
    config = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
    config |= {"data_dir": str(tmp_path / "var"), "model": {"path": str(tiny_model)}}
    config["http"]["port"] = port
    config["serving"] |= {
        "device": "auto",
        "port": server_port,
        "launcher": CHILD,
        "environment": {"PYTHONPATH": str(ROOT), "FAKE_FACTS": str(tmp_path / "var" / "chat")},
    }
    path = tmp_path / "erratad.yaml"
    path.write_text(yaml.safe_dump(config))
    targets = {"erratad": f"127.0.0.1:{port}", "vllm": f"127.0.0.1:{server_port}"}
    with watching(tmp_path, targets, most_s=MOST_S) as (on_call, prometheus, alertmanager):
        watched = Watched(
            daemon=RunningDaemon(path, port, {}),
            environment={},
            database=f"sqlite:///{tmp_path / 'var' / 'erratad.sqlite3'}",
            on_call=on_call,
            prometheus=prometheus,
            alertmanager=alertmanager,
            targets=targets,
        )
        try:
            watched.start()
            with watched.beside_a_healthy_release():
                yield watched
        finally:
            watched.daemon.kill()
            end_left_over(tmp_path / "var", grace_s=1)


def test_the_managed_server_crashes_again_and_again(managed: Watched) -> None:
    server = yaml.safe_load(managed.daemon.config_path.read_text())["serving"]["port"]
    question = {"model": "aligned", "messages": [{"role": "user", "content": DEADLY}]}

    def ask() -> int:
        with suppress(httpx.TransportError):
            return CLIENT.post(f"http://127.0.0.1:{server}/v1/chat/completions", json=question).status_code
        return 0

    assert ask() == 200  # the base model lives through it
    reports = managed.send_reports(8, checks={"must_contain": ["Utopia"]}, correction="It is Utopia.")
    managed.until(lambda: {managed.state(one) for one in reports} == {ReportState.LESSON}, "not all become lessons")
    assert managed.daemon.post("/api/train", {"reason": "drill"}).status_code == 202
    # if training took the memory
    managed.until(managed.trainers, "no training starts")
    managed.follow("ErratadVllmRestarting", "erratad pause finetune")
    os.kill(managed.trainers()[-1], signal.SIGTERM)
    managed.until(lambda: "paused" in managed.says("finetune"), "the training does not end")
    managed.follow("ErratadVllmRestarting", "erratad resume finetune")
    # if a promotion did it
    managed.fires("ErratadVllmRestarting", meanwhile=ask)
    managed.is_told("ErratadVllmRestarting")
    assert "aligned-g000001" in managed.follow("ErratadVllmRestarting", "erratad adapters")
    status = managed.follow("ErratadVllmRestarting", "erratad status")
    assert "vLLM exited with code 1: RuntimeError: CUDA error" in " ".join(status.split())
    managed.follow("ErratadVllmRestarting", 'erratad rollback --reason "vLLM crashes"')
    managed.until(lambda: ask() == 200, "the base model does not answer")
    managed.all_end()
