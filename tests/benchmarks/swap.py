"""`make bench-swap`: generations come and go under steady load; does any request fail, wait, or get another's words?

Every generation says its own word, so an answer shows which adapter made each of its tokens. An answer is mixed when
its tokens, its chunks' model names and its header do not all name one generation, and stale when that generation was at
no moment live between its sending and its first token.

Three kinds of blocks follow each other under the same load: without swaps, without swaps again, and with swaps. The
second ones measure the noise (A/A): a ratio of swaps counts only as far as it exceeds that of no swaps to no swaps.
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
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
RESAMPLES = 2000
ALLOWED = 1.1
"""How much higher the interval of swaps may end than that of no swaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """For how long a generation may have answered: from before its flip was asked for until the next one was done."""

    adapter: Adapter
    word: str
    since: float
    until: float = float("inf")


class Swapper:
    """Changes the live generation as the daemon does: verify, load, probe, flip, keep the previous, unload the rest."""

    def __init__(self, speaker: Speaker, servers: Sequence[VllmServer], folder: Path) -> None:
        self._speaker = speaker
        self._servers = servers
        self._folder = folder
        check = verifier(ModelConfig(path=speaker.model), ServingConfig(), TrainingConfig())
        self._fleet = Fleet(servers, verify=check)
        self._words = list(speaker.words)
        self._generation = 0
        self._ready: list[tuple[Adapter, str]] = []
        self.history: list[Live] = []
        self.first_seconds = 0.0
        """The first load and probe after the start of the servers, and the flip."""
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
        begun = time.monotonic()
        self._load(adapter)
        for server in self._servers:
            server.set_live(adapter.name, expected=None)
        self.first_seconds = time.monotonic() - begun
        self.history.append(Live(adapter=adapter, word=word, since=0.0))

    def swap(self) -> None:
        adapter, word = self._ready.pop(0)
        before = self.history[-1].adapter
        begun = time.monotonic()
        self._load(adapter)
        prepared = time.monotonic()
        with flipped(self._servers, target=adapter, live=before):
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
            for server in self._servers:
                server.set_live(back.adapter.name, expected=self.history[-1].adapter.name)
            done = time.monotonic()
            self._now_live(back.adapter, back.word, since=begun, at=done)
            self.rollback_seconds.append(done - begun)

    def _load(self, adapter: Adapter) -> None:
        for server in self._servers:
            load_and_probe(self._fleet, adapter, server)

    def _now_live(self, adapter: Adapter, word: str, *, since: float, at: float) -> None:
        last = self.history[-1]
        self.history[-1] = Live(adapter=last.adapter, word=last.word, since=last.since, until=at)
        self.history.append(Live(adapter=adapter, word=word, since=since))

    def _unload_but(self, kept: set[str]) -> None:
        for name in sorted(set(self._servers[0].state().adapters) - kept):
            for server in self._servers:
                while not server.unload(name):
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
    again: bool = False
    """The second of two blocks without swaps."""
    begun: float
    ended: float
    cpu_s: float
    """Processor time of the servers."""
    memory: int
    """Memory of the servers at its end, in bytes."""


def drive(swapper: Swapper, traffic: Sequence[Traffic], *, swaps: int, period_s: float, pids: list[int]) -> list[Block]:
    """Blocks without swaps, without them again, and with swaps, in turn."""
    blocks: list[Block] = []
    time.sleep(WARM_S)
    while (done := len(swapper.swap_seconds)) < swaps:
        count = min(BLOCK_SWAPS, swaps - done)
        swapper.write(count)
        quiet = partial(time.sleep, count * period_s)
        blocks += [_block(pids, again=again, work=quiet) for again in (False, True)]
        steadily = partial(_swap_steadily, swapper, count, period_s)
        blocks.append(_block(pids, swapping=True, work=steadily))
        swapper.roll_back()
    for one in traffic:
        one.stop()
    return blocks


def _block(pids: Sequence[int], *, work: Callable[[], None], swapping: bool = False, again: bool = False) -> Block:
    begun, cpu = time.monotonic(), sum(map(cpu_seconds, pids))
    work()
    return Block(
        swapping=swapping,
        again=again,
        begun=begun,
        ended=time.monotonic(),
        cpu_s=sum(map(cpu_seconds, pids)) - cpu,
        memory=sum(map(memory_bytes, pids)),
    )


def _swap_steadily(swapper: Swapper, count: int, period_s: float) -> None:
    for _ in range(count):
        begun = time.monotonic()
        swapper.swap()
        time.sleep(max(0.0, period_s - (time.monotonic() - begun)))


async def measure(
    speaker: Speaker, *, replicas: int, swaps: int, period_s: float, clients: int, max_tokens: int
) -> dict[str, Any]:
    """`clients` is the number of each replica."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as closing:
        folder = Path(name)
        running = [
            closing.enter_context(running_vllm(speaker.model, log=folder / f"server-{number}.log"))
            for number in range(replicas)
        ]
        servers = [VllmServer(one.url, api_key=API_KEY, admin_token=ADMIN_TOKEN) for one in running]
        for server in servers:
            closing.callback(server.close)
        swapper = Swapper(speaker, servers, folder)
        traffic = [
            Traffic(one.url, model="aligned", api_key=API_KEY, clients=clients, max_tokens=max_tokens)
            for one in running
        ]
        await asyncio.to_thread(swapper.begin)
        asking = [asyncio.create_task(one.run()) for one in traffic]
        pids = [one.pid for one in running]
        blocks = await asyncio.to_thread(drive, swapper, traffic, swaps=swaps, period_s=period_s, pids=pids)
        await asyncio.gather(*asking)
    return summary(swapper, [sample for one in traffic for sample in one.samples], blocks)


def summary(swapper: Swapper, samples: Sequence[Sample], blocks: Sequence[Block]) -> dict[str, Any]:
    faults = Counter(found for sample in samples if (found := fault(sample, swapper.history)))
    good = [sample for sample in samples if sample.error is None]
    streamed = [sample for sample in good if sample.streamed]
    whole = [sample for sample in good if not sample.streamed]
    usual = percentile(swapper.swap_seconds, 0.5)
    return {
        "swaps": len(swapper.swap_seconds),
        "requests": len(samples),
        "failed": faults["failed"],
        "stale_or_mixed": faults["stale"] + faults["mixed"],
        "request_seconds": {
            "streamed": compared(streamed, blocks, lambda sample: sample.seconds),
            "whole": compared(whole, blocks, lambda sample: sample.seconds),
        },
        "first_token_seconds": compared(streamed, blocks, lambda sample: sample.first_at - sample.sent_at),
        "cpu_seconds_per_request": {
            name: round(_cpu_per_request(samples, blocks, swapping=swapping), 4)
            for name, swapping in (("without_swaps", False), ("with_swaps", True))
        },
        "first_swap_seconds": round(swapper.first_seconds, 4),
        "first_swap_over_p50": round(swapper.first_seconds / usual, 2),
        "swap_seconds": _percentiles(swapper.swap_seconds),
        "swap_parts_p50": {part: round(percentile(values, 0.5), 4) for part, values in swapper.parts.items()},
        "rollback_seconds": _percentiles(swapper.rollback_seconds),
        "memory": _memory(blocks),
    }


def _memory(blocks: Sequence[Block]) -> dict[str, Any]:
    """Bytes after `SETTLED_AFTER` swaps, and by how much they grew since, in blocks with swaps and in those without.

    `after_swaps_bytes`: at the end of each block with swaps, from the first on.
    """
    after_swaps = [index for index, block in enumerate(blocks) if block.swapping]
    settled = after_swaps[min(SETTLED_AFTER // BLOCK_SWAPS, len(after_swaps)) - 1]
    growth = {True: 0, False: 0}
    for before, block in itertools.pairwise(blocks[settled:]):
        growth[block.swapping] += block.memory - before.memory
    return {
        "settled_bytes": blocks[settled].memory,
        "growth_with_swaps_bytes": growth[True],
        "growth_without_swaps_bytes": growth[False],
        "after_swaps_bytes": [blocks[index].memory for index in after_swaps],
    }


def _cpu_per_request(samples: Sequence[Sample], blocks: Sequence[Block], *, swapping: bool) -> float:
    cpu_s = sum(block.cpu_s for block in blocks if block.swapping is swapping)
    return cpu_s / sum(_within(sample, blocks, swapping=swapping) for sample in samples)


def _within(sample: Sample, blocks: Sequence[Block], *, swapping: bool) -> bool:
    return any(block.swapping is swapping and block.begun <= sample.sent_at < block.ended for block in blocks)


def compared(samples: Sequence[Sample], blocks: Sequence[Block], figure: Callable[[Sample], float]) -> dict[str, Any]:
    """The figure in the three kinds of blocks, and the ratios of its p99 with their 95 % intervals.

    `within`: the interval of swaps ends at most `ALLOWED` times as high as that of no swaps.
    """

    def of(*, swapping: bool, again: bool) -> NDArray[np.float64]:
        kind = [block for block in blocks if (block.swapping, block.again) == (swapping, again)]
        return np.array([figure(one) for one in samples if _within(one, kind, swapping=swapping)])

    quiet, again, swaps = (
        of(swapping=False, again=False),
        of(swapping=False, again=True),
        of(swapping=True, again=False),
    )
    swapped, noise = _p99_ratio(swaps, quiet), _p99_ratio(again, quiet)
    return {
        "without_swaps": _percentiles([*quiet, *again]),
        "with_swaps": _percentiles([*swaps]),
        "p99_ratio": swapped["ratio"],
        "p99_swaps": swapped,
        "p99_no_swaps": noise,
        "within": swapped["high"] <= ALLOWED * noise["high"],
    }


def _p99_ratio(ours: NDArray[np.float64], others: NDArray[np.float64]) -> dict[str, float]:
    """With the 95 % interval of a bootstrap over requests."""
    draw = np.random.default_rng(0)
    p99 = [
        np.quantile(draw.choice(values, (RESAMPLES, values.size)), 0.99, axis=1, method="inverted_cdf")
        for values in (ours, others)
    ]
    low, high = np.quantile(p99[0] / p99[1], (0.025, 0.975))
    ratio = percentile([*ours], 0.99) / percentile([*others], 0.99)
    return {"ratio": round(float(ratio), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(values),
        **{f"p{share * 100:.0f}": round(percentile(values, share), 4) for share in (0.5, 0.99)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--period", type=float, default=1.0, help="seconds from one swap to the next")
    parser.add_argument("--clients", type=int, default=4, help="of each replica")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--model", choices=("tiny", "real"), default="tiny")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        speaker = real_speaker(MODEL) if options.model == "real" else tiny_speaker(MODEL, Path(name) / "tiny")
        measured = asyncio.run(
            measure(
                speaker,
                replicas=options.replicas,
                swaps=options.swaps,
                period_s=options.period,
                clients=options.clients,
                max_tokens=options.max_tokens,
            )
        )
    result = keep(
        f"swap-{options.model}" if options.replicas == 1 else f"swap-{options.model}-{options.replicas}-replicas",
        command=f'make bench-swap SWAP="{" ".join(sys.argv[1:])}"',
        figures={**vars(options), **measured},
    )
    print(json.dumps(result))
    return int(bool(measured["failed"] or measured["stale_or_mixed"]))


if __name__ == "__main__":
    raise SystemExit(main())
