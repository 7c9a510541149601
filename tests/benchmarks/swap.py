"""`make bench-swap`: generations come and go under steady load; does any request fail, wait, or get another's words?

Every generation says its own word, so an answer shows which adapter made each of its tokens. An answer is mixed when
its tokens, its chunks' model names and its header do not all name one generation, and stale when that generation was at
no moment live between its sending and its first token. Blocks with and without swaps alternate under the same load.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.vllm import VllmServer
from daemon.config.serving import ModelConfig, ServingConfig
from daemon.config.training import TrainingConfig
from daemon.promotion.swap import flipped, load_and_probe
from daemon.records import Adapter
from daemon.serving.connect import verifier
from daemon.serving.fleet import Fleet
from tests.benchmarks.processes import cpu_seconds, memory_bytes
from tests.benchmarks.report import keep
from tests.benchmarks.traffic import Sample, Traffic, percentile
from tests.benchmarks.words import Speaker, real_speaker, tiny_speaker
from tests.fixtures.servers import ADMIN_TOKEN, API_KEY, running_vllm

MODEL = Path.home() / ".cache" / "erratad" / "smollm2-135m-instruct"
BLOCK_SWAPS = 10
WARM_S = 5.0
SETTLED_AFTER = 20
"""Swaps after which memory should not grow any more."""
DRAIN_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """For how long a generation may have answered: from before its flip was asked for until the next one was done."""

    adapter: Adapter
    word: str
    since: float
    until: float = float("inf")


class Swapper:
    """Changes the live generation as the daemon does: verify, load, probe, flip, keep the previous, unload the rest."""

    def __init__(self, speaker: Speaker, server: VllmServer, folder: Path) -> None:
        self._speaker = speaker
        self._server = server
        self._folder = folder
        check = verifier(ModelConfig(path=speaker.model), ServingConfig(), TrainingConfig())
        self._fleet = Fleet([server], verify=check)
        self._words = list(speaker.words)
        self._generation = 0
        self._ready: list[tuple[Adapter, str]] = []
        self.history: list[Live] = []
        self.swap_seconds: list[float] = []
        self.parts: dict[str, list[float]] = {"prepare": [], "flip": [], "unload": []}
        self.rollback_seconds: list[float] = []

    def write(self, count: int) -> None:
        """Write this number of adapters to disk, as if trained."""
        while len(self._ready) < count:
            self._generation += 1
            word = self._words[self._generation % len(self._words)]
            folder = self._folder / f"g{self._generation:06d}"
            self._ready.append((self._speaker.adapter(folder, generation=self._generation, word=word), word))

    def begin(self) -> None:
        """Make the first generation live."""
        self.write(1)
        adapter, word = self._ready.pop(0)
        load_and_probe(self._fleet, adapter, self._server)
        self._server.set_live(adapter.name, expected=None)
        self.history.append(Live(adapter=adapter, word=word, since=0.0))

    def swap(self) -> None:
        adapter, word = self._ready.pop(0)
        before = self.history[-1].adapter
        begun = time.monotonic()
        load_and_probe(self._fleet, adapter, self._server)
        prepared = time.monotonic()
        with flipped([self._server], target=adapter, live=before):
            done = time.monotonic()
        self._now_live(adapter, word, since=prepared, at=done)
        self.swap_seconds.append(done - begun)
        self.parts["prepare"].append(prepared - begun)
        self.parts["flip"].append(done - prepared)
        self._unload_but({adapter.name, before.name})
        self.parts["unload"].append(time.monotonic() - done)

    def roll_back(self) -> None:
        """To the previous generation and forward again, both loaded."""
        for back in (self.history[-2], self.history[-1]):
            begun = time.monotonic()
            self._server.set_live(back.adapter.name, expected=self.history[-1].adapter.name)
            done = time.monotonic()
            self._now_live(back.adapter, back.word, since=begun, at=done)
            self.rollback_seconds.append(done - begun)

    def _now_live(self, adapter: Adapter, word: str, *, since: float, at: float) -> None:
        last = self.history[-1]
        self.history[-1] = Live(adapter=last.adapter, word=last.word, since=last.since, until=at)
        self.history.append(Live(adapter=adapter, word=word, since=since))

    def _unload_but(self, kept: set[str]) -> None:
        for name in sorted(set(self._server.state().adapters) - kept):
            while not self._server.unload(name):
                time.sleep(DRAIN_POLL_S)
            shutil.rmtree(self._folder / name.removeprefix("aligned-"))


def fault(sample: Sample, history: Sequence[Live]) -> str | None:
    """What is wrong with an answer: `failed`, `mixed` or `stale`; None when nothing is."""
    if sample.error is not None:
        return "failed"
    name = f"aligned-g{sample.generation:06d}" if sample.generation is not None else ""
    spans = [live for live in history if live.adapter.name == name]
    if not spans or sample.models != {name} or set(sample.text.split()) != {spans[0].word}:
        return "mixed"
    if not any(live.since <= sample.first_at and live.until >= sample.sent_at for live in spans):
        return "stale"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    swapping: bool
    begun: float
    ended: float
    cpu_s: float
    """Processor time of the server."""
    memory: int
    """Memory of the server at its end, in bytes."""


def drive(swapper: Swapper, traffic: Traffic, *, swaps: int, period_s: float, pid: int) -> list[Block]:
    """Blocks without and with swaps in turn."""
    blocks: list[Block] = []
    time.sleep(WARM_S)
    while (done := len(swapper.swap_seconds)) < swaps:
        count = min(BLOCK_SWAPS, swaps - done)
        swapper.write(count)
        blocks.append(_block(pid, swapping=False, work=lambda count=count: time.sleep(count * period_s)))
        blocks.append(_block(pid, swapping=True, work=lambda count=count: _swap_steadily(swapper, count, period_s)))
        swapper.roll_back()
    traffic.stop()
    return blocks


def _block(pid: int, *, swapping: bool, work: Callable[[], None]) -> Block:
    begun, cpu = time.monotonic(), cpu_seconds(pid)
    work()
    return Block(
        swapping=swapping,
        begun=begun,
        ended=time.monotonic(),
        cpu_s=cpu_seconds(pid) - cpu,
        memory=memory_bytes(pid),
    )


def _swap_steadily(swapper: Swapper, count: int, period_s: float) -> None:
    for _ in range(count):
        begun = time.monotonic()
        swapper.swap()
        time.sleep(max(0.0, period_s - (time.monotonic() - begun)))


async def measure(speaker: Speaker, *, swaps: int, period_s: float, clients: int, max_tokens: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_vllm(speaker.model, log=folder / "server.log") as running:
            server = VllmServer(running.url, api_key=API_KEY, admin_token=ADMIN_TOKEN)
            swapper = Swapper(speaker, server, folder)
            traffic = Traffic(running.url, model="aligned", api_key=API_KEY, clients=clients, max_tokens=max_tokens)
            await asyncio.to_thread(swapper.begin)
            asking = asyncio.create_task(traffic.run())
            blocks = await asyncio.to_thread(drive, swapper, traffic, swaps=swaps, period_s=period_s, pid=running.pid)
            await asking
            server.close()
    return summary(swapper, traffic.samples, blocks)


def summary(swapper: Swapper, samples: Sequence[Sample], blocks: Sequence[Block]) -> dict[str, Any]:
    faults = Counter(found for sample in samples if (found := fault(sample, swapper.history)))
    latency = {}
    for kind, streamed in (("streamed", True), ("whole", False)):
        quiet, swapping = (
            [
                s.seconds
                for s in samples
                if s.streamed is streamed and s.error is None and _within(s, blocks, swapping=swapping)
            ]
            for swapping in (False, True)
        )
        latency[kind] = _compared(quiet, swapping)
    first = [
        [
            s.first_at - s.sent_at
            for s in samples
            if s.streamed and s.error is None and _within(s, blocks, swapping=swapping)
        ]
        for swapping in (False, True)
    ]
    return {
        "swaps": len(swapper.swap_seconds),
        "requests": len(samples),
        "failed": faults["failed"],
        "stale_or_mixed": faults["stale"] + faults["mixed"],
        "request_seconds": latency,
        "first_token_seconds": _compared(*first),
        "cpu_seconds_per_request": {
            name: round(_cpu_per_request(samples, blocks, swapping=swapping), 4)
            for name, swapping in (("without_swaps", False), ("with_swaps", True))
        },
        "swap_seconds": _percentiles(swapper.swap_seconds),
        "swap_parts_p50": {part: round(percentile(values, 0.5), 4) for part, values in swapper.parts.items()},
        "rollback_seconds": _percentiles(swapper.rollback_seconds),
        "memory": _memory(blocks),
    }


def _memory(blocks: Sequence[Block]) -> dict[str, Any]:
    """Bytes after `SETTLED_AFTER` swaps, and by how much they grew since, in blocks with swaps and in those without.

    `after_swaps_bytes`: at the end of each block with swaps, from the first on.
    """
    settled = min(2 * SETTLED_AFTER // BLOCK_SWAPS, len(blocks)) - 1
    growth = {True: 0, False: 0}
    for before, block in itertools.pairwise(blocks[settled:]):
        growth[block.swapping] += block.memory - before.memory
    return {
        "settled_bytes": blocks[settled].memory,
        "growth_with_swaps_bytes": growth[True],
        "growth_without_swaps_bytes": growth[False],
        "after_swaps_bytes": [block.memory for block in blocks if block.swapping],
    }


def _cpu_per_request(samples: Sequence[Sample], blocks: Sequence[Block], *, swapping: bool) -> float:
    cpu_s = sum(block.cpu_s for block in blocks if block.swapping is swapping)
    return cpu_s / sum(_within(sample, blocks, swapping=swapping) for sample in samples)


def _within(sample: Sample, blocks: Sequence[Block], *, swapping: bool) -> bool:
    return any(block.swapping is swapping and block.begun <= sample.sent_at < block.ended for block in blocks)


def _compared(quiet: Sequence[float], swapping: Sequence[float]) -> dict[str, Any]:
    ratio = percentile(swapping, 0.99) / percentile(quiet, 0.99)
    return {
        "without_swaps": _percentiles(quiet),
        "with_swaps": _percentiles(swapping),
        "p99_ratio": round(ratio, 3),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(values),
        **{f"p{share * 100:.0f}": round(percentile(values, share), 4) for share in (0.5, 0.99)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--period", type=float, default=1.0, help="seconds from one swap to the next")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--model", choices=("tiny", "real"), default="tiny")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        speaker = real_speaker(MODEL) if options.model == "real" else tiny_speaker(MODEL, Path(name) / "tiny")
        measured = asyncio.run(
            measure(
                speaker,
                swaps=options.swaps,
                period_s=options.period,
                clients=options.clients,
                max_tokens=options.max_tokens,
            )
        )
    result = keep(
        f"swap-{options.model}",
        command=f'make bench-swap SWAP="{" ".join(sys.argv[1:])}"',
        figures={**vars(options), **measured},
    )
    print(json.dumps(result))
    return int(bool(measured["failed"] or measured["stale_or_mixed"]))


if __name__ == "__main__":
    raise SystemExit(main())
