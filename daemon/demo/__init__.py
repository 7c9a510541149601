"""`erratad demo`: the whole loop on one machine, with every part real.

Read `play` first. An embedded broker, a vLLM server and the daemon run as processes. A chat backend (`play`) asks the
alias the scenario's questions, flags the answers that break the scenario's rules, and watches until a better adapter is
live. It asks during the swap, too, and counts what failed.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from daemon.config.intake import KafkaConfig
from daemon.demo.embedded_broker import EmbeddedBroker
from daemon.demo.play import Demo
from daemon.demo.process import DaemonProcess, running_daemon
from daemon.demo.scenario import SCENARIO, load_scenario
from daemon.errors import ConfigError
from daemon.serving.process import end_left_over

MARKER = ".erratad-demo"
LOG_WIDTH = 160
"""Columns of the view where no terminal says how wide it is."""


def run_demo(
    *, as_json: bool = False, scenario: Path | None = None, data_dir: Path | None = None, keep: bool = False
) -> int:
    """Run the loop once; 0 only if a new adapter went live and a flagged prompt is answered better by rule."""
    screen = Console(stderr=as_json)
    if not screen.is_terminal:
        screen.width = LOG_WIDTH
    questions = load_scenario(scenario or SCENARIO)
    folder = (data_dir or Path("var") / "demo").absolute()
    _empty(folder)
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is stopped
    with EmbeddedBroker.start() as broker, running_daemon(folder, broker.bootstrap) as daemon:
        demo = Demo(screen=screen, daemon=daemon, kafka=KafkaConfig(bootstrap_servers=[broker.bootstrap]))
        summary = demo.play(questions)
        summary["seconds"] = round(time.monotonic() - started, 1)
        screen.print(f"\nconsole {daemon.url}/   metrics {daemon.url}/metrics   chat {daemon.chat_url}/v1")
        if keep:
            screen.print("Everything keeps running; Ctrl-C stops it.")
            _wait_for_interrupt(daemon)
    if as_json:
        print(json.dumps(summary))  # noqa: T201 - the promised last line
    return 0 if summary["gate"]["accepted"] and summary["fixed"] > 0 and not summary["requests"]["failed"] else 1


def _wait_for_interrupt(daemon: DaemonProcess) -> None:
    try:
        while True:
            daemon.check()
            time.sleep(1)
    except KeyboardInterrupt:
        return


def _empty(folder: Path) -> None:
    """Make the folder new; one that holds something else than an earlier demo is left alone.

    Raises:
        ConfigError: when the folder is not an earlier demo's.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise ConfigError(f"--data-dir: {folder} holds other files; name a new or empty folder")
    if folder.exists():
        end_left_over(folder)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
