"""`erratad demo`: the whole loop on one machine, with every part real.

Read `play` first. An embedded broker, a vLLM server and the daemon run as processes. A chat backend (`play`) sends the
scenario's questions to the alias, flags the answers that fail the scenario's checks, and waits until a better adapter
is live. It also sends requests during the swap and counts failures.
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
from daemon.demo.screen import Screen
from daemon.errors import ConfigError
from daemon.serving.process import end_left_over

MARKER = ".erratad-demo"
INTRODUCTION = (
    "A chat backend asks {questions} questions, flags the bad answers, and waits until a better adapter is live. "
    "Every part is real: broker, vLLM, daemon, training, gate and swap. Two quiet cores take about 7 minutes."
)


def run_demo(
    *, as_json: bool = False, scenario: Path | None = None, data_dir: Path | None = None, keep: bool = False
) -> int:
    """Run the loop once. Returns 0 if the gate accepted, an answer is fixed and no request failed; else 1."""
    screen = Screen(Console(stderr=as_json))
    questions = load_scenario(scenario or SCENARIO)
    screen.print(INTRODUCTION.format(questions=len(questions)), highlight=False)
    folder = (data_dir or Path("var") / "demo").absolute()
    _empty(folder)
    started = time.monotonic()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # the context managers then stop the child processes
    with EmbeddedBroker.start() as broker, running_daemon(folder, broker.bootstrap) as daemon:
        addresses = f"console {daemon.url}/   metrics {daemon.url}/metrics   chat {daemon.chat_url}/v1"
        screen.print(f"{addresses}\nlog {daemon.log}\n", highlight=False)
        demo = Demo(screen=screen, daemon=daemon, kafka=KafkaConfig(bootstrap_servers=[broker.bootstrap]))
        summary = demo.play(questions)
        summary["seconds"] = round(time.monotonic() - started, 1)
        if keep:
            screen.print(f"\n{addresses}\nEverything keeps running; Ctrl-C stops it.")
            _wait_for_interrupt(daemon)
    if as_json:
        print(json.dumps(summary))  # noqa: T201 - documented: the last line is the summary
    return 0 if summary["gate"]["accepted"] and summary["fixed"] > 0 and not summary["requests"]["failed"] else 1


def _wait_for_interrupt(daemon: DaemonProcess) -> None:
    try:
        while True:
            daemon.check()
            time.sleep(1)
    except KeyboardInterrupt:
        return


def _empty(folder: Path) -> None:
    """Create the folder empty. Only the folder of an earlier demo is deleted.

    Raises:
        ConfigError: if the folder holds other files.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise ConfigError(f"--data-dir: {folder} holds other files; choose a new or empty folder")
    if folder.exists():
        end_left_over(folder)
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, parents=True)
    (folder / MARKER).touch()
