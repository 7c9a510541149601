"""The managed server with real processes: kills of daemon, front end and engine, and servers that misbehave."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from connectors.vllm import VllmServer
from daemon.config.serving import ModelConfig, ServingConfig
from daemon.config.training import TrainingConfig
from daemon.runtime.stage import Step
from daemon.serving import managed as vllm_server
from daemon.serving import server_log
from daemon.serving.managed import ManagedServer
from daemon.serving.process import ServerProcess, ServerRecord, end_left_over, record_path
from tests.fakes.vllm import FakeVllm
from tests.fixtures.life import life

CHILD = Path(__file__).parents[1] / "fakes" / "vllm_child.py"
DAEMON = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from daemon.config.serving import ModelConfig, ServingConfig
    from daemon.config.training import TrainingConfig
    from daemon.serving.managed import ManagedServer
    from tests.fixtures.life import life
    stage = ManagedServer(
        model=ModelConfig(path=Path(sys.argv[1])),
        serving=ServingConfig.model_validate_json(sys.argv[2]),
        training=TrainingConfig(target_modules=["q_proj"]),
        data_dir=Path(sys.argv[3]),
        publish=lambda servers: None,
    )
    while True:
        print(stage.step(life()).sentence, flush=True)
        time.sleep(0.02)
    """
)


class Desk:
    """One data directory, and daemons that manage its server."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "var"
        self.control = folder / "control"
        self.model = folder / "model"
        self.control.mkdir()
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        self.stages: list[ManagedServer] = []
        self.daemons: list[subprocess.Popen[str]] = []
        self.published: list[VllmServer] = []

    def serving(self, **changes: Any) -> ServingConfig:
        values: dict[str, Any] = {
            "port": 0,
            "launcher": [sys.executable, str(CHILD)],
            "environment": {"FAKE_CONTROL": str(self.control)},
            "restart_backoff_s": 0.05,
        }
        return ServingConfig(**{**values, **changes})

    def stage(self, **changes: Any) -> ManagedServer:
        stage = ManagedServer(
            model=ModelConfig(path=self.model),
            serving=self.serving(**changes),
            training=TrainingConfig(target_modules=["q_proj"]),
            data_dir=self.data_dir,
            publish=self.published.extend,
        )
        self.stages.append(stage)
        return stage

    def killed_daemon(self) -> ServerRecord:
        """A daemon in a process of its own is killed by SIGKILL as soon as its server serves."""
        arguments = [str(self.model), self.serving().model_dump_json(), str(self.data_dir)]
        daemon = subprocess.Popen([sys.executable, "-c", DAEMON, *arguments], stdout=subprocess.PIPE, text=True)
        self.daemons.append(daemon)
        assert daemon.stdout is not None
        said = next((line for line in daemon.stdout if line.startswith("vLLM serves")), None)
        assert said is not None
        daemon.kill()
        daemon.communicate()
        return self.record()

    def record(self) -> ServerRecord:
        record = ServerRecord.read(record_path(self.data_dir))
        assert record is not None
        return record

    def engine(self, pid: int) -> int:
        return int((self.control / f"engine-{pid}").read_text())

    def switch(self, fault: str, *, on: bool = True) -> None:
        (self.control / fault).touch() if on else (self.control / fault).unlink()

    def tidy(self) -> None:
        for stage in self.stages:
            stage.close()
        for server in self.published:
            server.close()
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.kill()
                daemon.communicate()
        end_left_over(self.data_dir, grace_s=1)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.tidy()


def test_the_server_starts_with_progress_in_words_and_serves(desk: Desk) -> None:
    desk.control.joinpath("unready").touch()
    stage = desk.stage()
    _until_says(stage, "vLLM starting: loading weights, 0 s")
    desk.switch("unready", on=False)
    sentence = _until_says(stage, "vLLM serves on http://127.0.0.1:")
    [client] = desk.published
    assert client.url in sentence
    assert client.ready()
    assert stat.S_IMODE(record_path(desk.data_dir).stat().st_mode) == 0o600


def test_an_orderly_stop_leaves_no_process_and_no_record(desk: Desk) -> None:
    stage = desk.stage()
    _until_says(stage, "vLLM serves")
    record = desk.record()
    engine = desk.engine(record.pid)
    stage.close()
    assert not _runs(record.pid)
    assert not _runs(engine)
    assert not record_path(desk.data_dir).exists()


@pytest.mark.parametrize("victim", ["front end", "engine and front end"])
def test_a_server_that_dies_is_started_again_at_the_same_address(desk: Desk, victim: str) -> None:
    stage = desk.stage()
    _until_says(stage, "vLLM serves")
    first = desk.record()
    engine = desk.engine(first.pid)
    if victim != "front end":
        os.kill(engine, signal.SIGKILL)
    os.kill(first.pid, signal.SIGKILL)
    _until_says(stage, "vLLM exited with code -9")
    assert not _runs(engine)
    _until_says(stage, "vLLM serves")
    second = desk.record()
    assert (second.port, second.pid != first.pid) == (first.port, True)
    assert len(desk.published) == 1
    assert desk.published[0].ready()


def test_an_exit_with_code_zero_is_a_failure_that_names_its_cause_and_waits_ever_longer(desk: Desk) -> None:
    desk.switch("broken")
    stage = desk.stage()
    sentence = _until_says(stage, "vLLM exited with code 0: ValueError: the model has no config.json")
    assert "start 2 follows after 0.05 s" in sentence
    assert "start 3 follows after 0.1 s" in _until_says(stage, "start 3")
    desk.switch("broken", on=False)
    _until_says(stage, "vLLM serves")


def test_a_server_that_is_up_again_says_for_a_while_why_it_was_restarted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = desk.stage()
    assert "restarted" not in _until_says(stage, "vLLM serves")
    desk.control.joinpath("unready").touch()
    os.kill(desk.record().pid, signal.SIGKILL)
    why = r"; restarted at \d\d:\d\d:\d\d UTC: vLLM exited with code -9"
    assert re.search(why, _until_says(stage, "vLLM starting: loading weights"))
    desk.switch("unready", on=False)
    assert re.search(why, _until_says(stage, "vLLM serves"))
    monkeypatch.setattr(stage, "_restart_shown_until", 0.0)
    assert "restarted" not in _until_says(stage, "vLLM serves")


def test_a_launcher_that_does_not_exist_is_named(desk: Desk) -> None:
    sentence = _until_says(desk.stage(launcher=["no-such-launcher"]), "vLLM exited with code 127")
    assert "no-such-launcher" in sentence


def test_a_killed_daemon_leaves_a_server_that_the_next_one_adopts(desk: Desk) -> None:
    before = desk.killed_daemon()
    assert _runs(before.pid)
    stage = desk.stage()
    sentence = _until_says(stage, "vLLM serves")
    assert f"(process {before.pid}, adopted)" in sentence
    assert desk.record() == before
    assert desk.published[0].state().epoch


def test_a_server_that_an_older_daemon_recorded_is_adopted(desk: Desk) -> None:
    """erratad 0.1 read the start time itself, as field 22 of /proc/PID/stat."""
    before = desk.killed_daemon()
    fields = Path(f"/proc/{before.pid}/stat").read_text().rpartition(")")[2].split()
    written = {
        "pid": before.pid,
        "started": int(fields[19]),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "port": before.port,
        "admin_token": before.admin_token,
        "fingerprint": before.fingerprint,
    }
    record_path(desk.data_dir).write_text(json.dumps(written))
    assert f"(process {before.pid}, adopted)" in _until_says(desk.stage(), "vLLM serves")


def test_a_server_is_adopted_though_the_clock_was_set_since_its_start(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = desk.killed_daemon()
    boot_time = psutil.boot_time() + 3600
    monkeypatch.setattr("psutil._psplatform.boot_time", lambda: boot_time)
    assert f"(process {before.pid}, adopted)" in _until_says(desk.stage(), "vLLM serves")


def test_an_adopted_server_is_supervised_like_an_own_one(desk: Desk) -> None:
    before = desk.killed_daemon()
    stage = desk.stage()
    _until_says(stage, "vLLM serves")
    os.kill(before.pid, signal.SIGKILL)
    _until_says(stage, "vLLM exited with an unknown code")
    _until_says(stage, "vLLM serves")
    assert desk.record().pid != before.pid
    assert not _runs(desk.engine(before.pid))


def test_the_log_of_an_adopted_server_is_rotated_and_still_explains_its_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = desk.killed_daemon()
    path = desk.data_dir / "logs" / "vllm.log"
    with path.open("a") as file:
        file.write("INFO fine\n" * 100 + "ValueError: the cause\n")
    monkeypatch.setattr(server_log, "MAX_LOG_BYTES", 1000)
    stage = desk.stage()
    _until_says(stage, "adopted")
    assert path.stat().st_size == 0
    assert path.with_name("vllm.log.1").stat().st_size > 1000
    os.kill(before.pid, signal.SIGKILL)
    _until_says(stage, "vLLM exited with an unknown code: ValueError: the cause")


def test_an_orderly_stop_ends_an_adopted_server_too(desk: Desk) -> None:
    before = desk.killed_daemon()
    stage = desk.stage()
    _until_says(stage, "adopted")
    stage.close()
    assert not _runs(before.pid)
    assert not _runs(desk.engine(before.pid))


def test_a_left_over_server_of_another_configuration_is_replaced(desk: Desk) -> None:
    before = desk.killed_daemon()
    stage = desk.stage(guidance="Be kinder.")
    _until_says(stage, "vLLM serves")
    assert not _runs(before.pid)
    assert not _runs(desk.engine(before.pid))
    assert desk.record().pid != before.pid


def test_engines_without_their_front_end_are_ended_before_the_port_is_used_again(desk: Desk) -> None:
    before = desk.killed_daemon()
    os.kill(before.pid, signal.SIGKILL)
    _until(lambda: not _runs(before.pid))
    assert _runs(desk.engine(before.pid))
    stage = desk.stage()
    _until_says(stage, "vLLM serves")
    assert not _runs(desk.engine(before.pid))


def test_a_daemon_killed_before_the_record_is_written_leaves_no_server(desk: Desk) -> None:
    script = (
        "import os, signal\n"
        "from daemon.serving.process import ServerRecord\n"
        "def die(record, path):\n"
        "    print(record.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "ServerRecord.write = die\n" + DAEMON
    )
    arguments = [str(desk.model), desk.serving().model_dump_json(), str(desk.data_dir)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    _until(lambda: not _runs(int(done.stdout)))
    assert not list(desk.control.iterdir())


def test_a_process_that_only_reuses_the_recorded_number_is_left_alone(desk: Desk) -> None:
    record = desk.killed_daemon()
    end_left_over(desk.data_dir)
    innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    values = {**_values(record), "pid": innocent.pid}
    ServerRecord(**values).write(record_path(desk.data_dir))
    try:
        stage = desk.stage()
        _until_says(stage, "vLLM serves")
        assert innocent.poll() is None
        ServerProcess(ServerRecord(**values)).end(grace_s=1)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_a_record_of_an_earlier_boot_is_ignored(desk: Desk) -> None:
    record = desk.killed_daemon()
    try:
        ServerRecord(**{**_values(record), "boot_id": "earlier"}).write(record_path(desk.data_dir))
        assert ServerRecord.read(record_path(desk.data_dir)) is None
        record_path(desk.data_dir).write_text("{")
        assert ServerRecord.read(record_path(desk.data_dir)) is None
    finally:
        ServerProcess(record).end(grace_s=1)


def test_a_second_daemon_on_the_same_data_directory_waits(desk: Desk) -> None:
    first, second = desk.stage(), desk.stage()
    _until_says(first, "vLLM serves")
    pid = desk.record().pid
    assert _step(second).sentence.startswith("waiting: another erratad runs the vLLM server")
    second.close()
    assert _runs(pid)
    first.close()
    _until_says(second, "vLLM serves")


def test_empty_answers_with_a_good_health_check_restart_the_server(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "PROBE_INTERVAL_S", 0.0)
    stage = desk.stage()
    _until_says(stage, "vLLM serves")
    first = desk.record().pid
    desk.switch("empty")
    _until_says(stage, "its engine is poisoned")
    desk.switch("empty", on=False)
    _until_says(stage, "vLLM serves")
    assert desk.record().pid != first


def test_a_health_check_that_keeps_failing_restarts_the_server(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "UNREADY_LIMIT_S", 0.5)
    stage = desk.stage()
    _until_says(stage, "vLLM serves")
    desk.switch("unhealthy")
    _until_says(stage, "vLLM's /health fails;")
    _until_says(stage, "vLLM's /health failed for")
    desk.switch("unhealthy", on=False)
    _until_says(stage, "vLLM serves")


def test_an_address_that_something_else_uses_is_told(desk: Desk, fake_vllm: FakeVllm) -> None:
    desk.switch("late")
    stage = desk.stage(port=int(fake_vllm.url.rpartition(":")[2]))
    _until_says(stage, "something else answers at its address")
    desk.switch("late", on=False)
    _until_says(stage, "Address already in use")


def _values(record: ServerRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


def _step(stage: ManagedServer) -> Step:
    return stage.step(life())


def _until_says(stage: ManagedServer, words: str) -> str:
    """Step until the sentence holds `words`; returns it."""
    deadline = time.monotonic() + 30
    while True:
        sentence = _step(stage).sentence
        if words in sentence:
            return sentence
        assert time.monotonic() < deadline, f"it never said {words!r}; last: {sentence}"
        time.sleep(0.02)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 10 s"
        time.sleep(0.01)
