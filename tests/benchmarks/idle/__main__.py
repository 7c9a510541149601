"""`make bench-idle`: what a daemon costs that has nothing to do; one JSON line per database.

A daemon with the default configuration, a fake vLLM server that is ready, and the embedded broker, whose processor time
does not count. The figures are those of the daemon and its child processes after they have settled.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from daemon.demo.embedded_broker import EmbeddedBroker
from tests.benchmarks.idle.counted import COUNTERS
from tests.benchmarks.processes import cpu_seconds, memory_bytes
from tests.benchmarks.report import keep
from tests.benchmarks.swap import MODEL
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.ports import free_port
from tests.fixtures.stores import running_postgres

MIB = 1024**2
START_S = 300


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make bench-idle")
    parser.add_argument("--backend", choices=("sqlite", "postgresql"), action="append", help="default: both")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--settle", type=float, default=45, help="seconds before the measurement")
    given = parser.parse_args(arguments)
    results = [measured(one, given.seconds, given.settle) for one in given.backend or ("sqlite", "postgresql")]
    keep("idle", command=f'make bench-idle IDLE="{" ".join(arguments)}"', figures={"backends": results})
    for result in results:
        print(json.dumps(result))
    return 0


def measured(backend: str, seconds: float, settle_s: float) -> dict[str, Any]:
    with _daemon(backend) as (pid, counters):
        print(f"{backend}: ready", file=sys.stderr)
        time.sleep(settle_s)
        memory, cpu, counts, started = memory_bytes(pid), cpu_seconds(pid), _read(counters), time.monotonic()
        time.sleep(seconds)
        cpu, took_s = cpu_seconds(pid) - cpu, time.monotonic() - started
        statements, writes = (after - before for after, before in zip(_read(counters), counts, strict=True))
        return {
            "backend": backend,
            "seconds": round(took_s),
            "cpu_share": round(cpu / took_s, 4),
            "writes_per_minute": round(writes / took_s * 60, 1),
            "statements_per_minute": round(statements / took_s * 60, 1),
            "memory_start_mib": round(memory / MIB, 1),
            "memory_end_mib": round(memory_bytes(pid) / MIB, 1),
        }


def _read(counters: Path) -> tuple[int, int]:
    statements, writes = COUNTERS.unpack(counters.read_bytes())
    return statements, writes


@contextmanager
def _daemon(backend: str) -> Iterator[tuple[int, Path]]:
    """The id of a ready daemon's process, which is also that of its session, and the file of its counters."""
    with tempfile.TemporaryDirectory() as name, FakeVllm() as fake, EmbeddedBroker.start() as broker:
        folder, port = Path(name), free_port()
        fake.facts_dir = folder / "var" / "chat"
        config = {
            "data_dir": str(folder / "var"),
            "model": {"path": str(MODEL)},
            "serving": {"mode": "attached", "urls": [fake.url], "admin_token_env": "IDLE_ADMIN_TOKEN"},
            "dataset": {"replay_fraction": 0},  # else it has work: ordinary prompts are answered ahead of the runs
            "intake": {"kafka": {"bootstrap_servers": [broker.bootstrap]}},
            "http": {"port": port},
        }
        if backend == "sqlite":
            with _running(folder, config) as running:
                yield running
            return
        with running_postgres() as server:
            config["store"] = {"url": server.url(server.create_database())}
            with _running(folder, config) as running:
                yield running


@contextmanager
def _running(folder: Path, config: dict[str, Any]) -> Iterator[tuple[int, Path]]:
    path, counters, log = folder / "erratad.yaml", folder / "counters", folder / "daemon.log"
    path.write_text(yaml.safe_dump(config))
    counters.write_bytes(bytes(COUNTERS.size))
    command = [sys.executable, "-m", "tests.benchmarks.idle.counted", str(counters), "run", "--config", str(path)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "IDLE_ADMIN_TOKEN": ADMIN_TOKEN},
        )
    try:
        _wait_until_ready(process, config["http"]["port"], log)
        yield process.pid, counters
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == httpx.codes.OK:
                return
        time.sleep(0.5)
    raise RuntimeError(f"the daemon is not ready; its log ends:\n{log.read_text()[-3000:]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
