"""The data directory of an earlier erratad, killed in the middle of a run, is taken over by this one."""

from __future__ import annotations

import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.vllm import VllmServer
from daemon.artifacts.base_model import base_fingerprint
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.config import flagged
from tests.fixtures.daemons import RunningDaemon

DATA = Path(__file__).parents[1] / "fixtures" / "data_before_rooms.tar.gz"
"""Made by the last commit before the rooms (16edb2f). Of its twelve reports eight are fixed in the live generation 1,
and four are in run 2, which was being measured when the daemon was killed. Promotion is paused. @WORDS@ stand for what
differs from machine to machine."""
RIGHT = "The right answer is Utopia."
WRONG = "This response is wrong because the town that it names is not the capital; a good response names the real one."


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    del messages
    return RIGHT if model.startswith("aligned-g") else WRONG


@pytest.fixture
def vllm(tmp_path: Path) -> Iterator[FakeVllm]:
    with FakeVllm(answer=answer) as fake:
        fake.facts_dir = tmp_path / "var" / "chat"
        yield fake


def unpack(data_dir: Path, model: Path) -> None:
    """Put the old data directory into `data_dir`, as if it had been created there."""
    with tarfile.open(DATA) as archive:
        archive.extractall(data_dir.parent, filter="data")
    fingerprint = base_fingerprint(model)
    words = {b"@DATA_DIR@": str(data_dir), b"@MODEL@": str(model), b"@FINGERPRINT@": fingerprint}
    for path in data_dir.rglob("*"):
        if path.is_file() and path.suffix in {".json", ".sql"}:
            content = path.read_bytes()
            for word, value in words.items():
                content = content.replace(word, value.encode())
            path.chmod(0o644)
            path.write_bytes(content)
    [answers_of_base] = (data_dir / "replay").iterdir()
    answers_of_base.rename(answers_of_base.with_name(fingerprint[:16]))
    dump = data_dir / "erratad.sql"
    with sqlite3.connect(data_dir / "erratad.sqlite3") as database:
        database.executescript(dump.read_text())
    database.close()
    dump.unlink()


@pytest.mark.slow
def test_data_of_an_earlier_version_is_taken_over_and_its_run_goes_on(
    vllm: FakeVllm,
    tiny_model: Path,
    make_daemon: Callable[..., RunningDaemon],
    make_client: Callable[..., VllmServer],
) -> None:
    daemon = make_daemon(
        environment={"FAKE_TOKEN": ADMIN_TOKEN},
        model={"path": str(tiny_model)},
        serving={"mode": "attached", "urls": [vllm.url], "admin_token_env": "FAKE_TOKEN", "port": 8000},
        training={"epochs": 4},
    )
    unpack(daemon.config_path.parent / "var", tiny_model)
    daemon.start()
    daemon.until(lambda: bool(daemon.get("/livez")))

    states = [report["state"] for report in daemon.get("/api/reports?limit=100")]
    assert sorted(states) == ["lesson"] * 4 + ["resolved"] * 8
    assert [pause["stage"] for pause in daemon.get("/api/status")["pauses"]] == ["promotion"]
    daemon.until(lambda: make_client(vllm.url).state().live == "aligned-g000001")

    # the run that was cut short is measured to its end with the files and answers that the old daemon left
    daemon.until(lambda: daemon.get("/api/runs")[0]["state"] != "evaluating")
    assert daemon.post("/api/resume", {"stage": "promotion", "reason": "upgraded"}).status_code == 200
    daemon.until(lambda: daemon.get("/api/runs")[0]["state"] in {"promoted", "rejected"})
    verdicts = {adapter["generation"]: adapter["state"] for adapter in daemon.get("/api/adapters")}
    assert verdicts == {0: "retired", 1: "live", 2: "rejected"}

    # and new reports come in beside the old ones
    report = flagged(
        id="later", response="It is Nowhere.", checks={"must_contain": ["Utopia"]}, correction="It is Utopia."
    )
    assert daemon.post("/v1/feedback", report.model_dump(mode="json", exclude_none=True)).status_code == 202
    daemon.until(lambda: [one["state"] for one in daemon.get("/api/reports") if one["id"] == report.id] == ["lesson"])
    assert daemon.stop() == 0
