"""`make bench-alias`: what the alias costs against plain vLLM, and what LoRA on a CPU costs against the base model.

Servers of the same model run side by side, and short rounds on each take turns, so that they share the machine's noise:

- `alias`: one server with the plugin; requests go to the alias (its guidance is empty, so that prompts are equal);
- `by_name`: the same server; requests name its base model, which the middleware passes on as they are;
- `plain`: stock vLLM without any plugin; requests name its base model;
- `grouped` and `stock`: an adapter by its name with erratad's corrected CPU LoRA, and with vLLM's own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from connectors.vllm import VllmServer
from connectors.vllm_plugin.alias import AliasMiddleware, AliasTable
from connectors.vllm_plugin.routes import RouteGate
from connectors.vllm_plugin.settings import AliasSettings
from tests.benchmarks.processes import cpu_seconds
from tests.benchmarks.report import keep
from tests.benchmarks.swap import MODEL
from tests.benchmarks.traffic import Sample, Traffic, percentile
from tests.benchmarks.words import Speaker, real_speaker, tiny_speaker
from tests.fixtures.servers import ADMIN_TOKEN, API_KEY, running_vllm

NO_GUIDANCE = {"ERRATAD_GUIDANCE": ""}
PLAIN = {"VLLM_PLUGINS": "none"}
STOCK_LORA = {**NO_GUIDANCE, "VLLM_PLUGINS": "erratad"}
STREAMS = (1, 4, 16)
MICRO_REQUESTS = 3000
STREAMED_TOKENS = 256


@dataclass(slots=True, kw_only=True)
class Arm:
    """One way to ask, and what was measured of it; `rates`: output tokens per second of each round."""

    url: str
    model: str
    pid: int = 0
    cpu_s: float = 0.0
    rates: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


def take_turns(arms: dict[str, Arm], *, rounds: int, round_s: float, clients: int, max_tokens: int) -> None:
    """Each round asks every arm for `round_s`; the order turns with the rounds."""
    names = list(arms)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            arm = arms[name]
            cpu_s = cpu_seconds(arm.pid)
            samples, seconds = asyncio.run(_ask(arm, clients=clients, max_tokens=max_tokens, round_s=round_s))
            errors = [sample.error for sample in samples if sample.error is not None]
            if errors:
                raise RuntimeError(f"{name}: {errors[0]}")
            arm.samples += samples
            arm.cpu_s += cpu_seconds(arm.pid) - cpu_s
            arm.rates.append(len(samples) * max_tokens / seconds)


async def _ask(arm: Arm, *, clients: int, max_tokens: int, round_s: float) -> tuple[list[Sample], float]:
    traffic = Traffic(arm.url, model=arm.model, api_key=API_KEY, clients=clients, max_tokens=max_tokens)
    begun = time.monotonic()
    asking = asyncio.create_task(traffic.run())
    await asyncio.sleep(round_s)
    traffic.stop()
    await asking
    return traffic.samples, time.monotonic() - begun


def middleware_cost(plain_cpu_s_per_token: float) -> dict[str, Any]:
    """What the middleware adds to one request, without a server: far below what the noise of two servers can show.

    Processor seconds of a request with it less the median of those without, for an answer in one piece and for one in
    `STREAMED_TOKENS` chunks; `share`: the latter's median of what plain vLLM spends on as many tokens.
    """
    settings = AliasSettings(
        alias="aligned", base_name="base", guidance="Answer well.", admin_token="t", system_role=True
    )
    table = AliasTable(settings)
    table.set_live("aligned-g000000", expected=None)
    found: dict[str, Any] = {}
    for kind, chunks in (("whole", 1), ("streamed", STREAMED_TOKENS)):
        bare = partial(_serve_nothing, chunks=chunks)
        without = percentile(asyncio.run(_cpu_seconds_each(bare)), 0.5)
        ours = RouteGate(AliasMiddleware(bare, table=table), token=settings.admin_token)
        added = [one - without for one in asyncio.run(_cpu_seconds_each(ours))]
        found[kind] = {f"p{share * 100:.0f}": round(percentile(added, share), 7) for share in (0.5, 0.99)}
    found["share"] = round(found["streamed"]["p50"] / (plain_cpu_s_per_token * STREAMED_TOKENS), 6)
    return found


async def _serve_nothing(_scope: Any, receive: Any, send: Any, *, chunks: int) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(chunks):
        await send({"type": "http.response.body", "body": b"data: {}", "more_body": number < chunks - 1})


async def _cpu_seconds_each(app: Any) -> list[float]:
    body = json.dumps({"model": "aligned", "messages": [{"role": "user", "content": "Why? " * 100}]}).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_message: Any) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    spent = []
    for _ in range(MICRO_REQUESTS):
        begun = time.process_time()
        await app(scope, receive, send)
        spent.append(time.process_time() - begun)
    return spent


def alias_cost(speaker: Speaker, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
        ours = servers.enter_context(running_vllm(speaker.model, log=Path(name) / "alias.log", environment=NO_GUIDANCE))
        plain = servers.enter_context(
            running_vllm(speaker.model, log=Path(name) / "plain.log", environment=PLAIN, ready=_healthy)
        )
        with_admin = VllmServer(ours.url, api_key=API_KEY, admin_token=ADMIN_TOKEN)
        with_admin.set_live("aligned-g000000", expected=None)
        with_admin.close()
        arms = {
            "alias": Arm(url=ours.url, model="aligned", pid=ours.pid),
            "by_name": Arm(url=ours.url, model="base", pid=ours.pid),
            "plain": Arm(url=plain.url, model="base", pid=plain.pid),
        }
        take_turns(arms, rounds=1, round_s=5.0, clients=4, max_tokens=options.max_tokens)
        for arm in arms.values():
            arm.rates, arm.samples, arm.cpu_s = [], [], 0.0
        take_turns(arms, rounds=options.rounds, round_s=options.round, clients=4, max_tokens=options.max_tokens)
    latency = {name: [sample.seconds for sample in arm.samples] for name, arm in arms.items()}
    lost = {
        peer: [1 - ours / theirs for ours, theirs in zip(arms["alias"].rates, arms[peer].rates, strict=True)]
        for peer in ("by_name", "plain")
    }
    cpu_s = {name: arm.cpu_s / len(arm.samples) for name, arm in arms.items()}
    return {
        "tokens_per_s": {name: round(median(arm.rates), 1) for name, arm in arms.items()},
        "throughput_lost_share": {
            peer: {"median": round(median(shares), 4), "rounds": [round(share, 3) for share in shares]}
            for peer, shares in lost.items()
        },
        "server_cpu_seconds_per_request": {name: round(seconds, 5) for name, seconds in cpu_s.items()},
        "request_seconds_p50": {name: round(percentile(values, 0.5), 4) for name, values in latency.items()},
        "request_seconds_p99": {name: round(percentile(values, 0.99), 4) for name, values in latency.items()},
        "requests": {name: len(values) for name, values in latency.items()},
        "middleware_cpu_seconds_added": middleware_cost(cpu_s["plain"] / options.max_tokens),
    }


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5.0).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def lora_cost(speaker: Speaker, options: argparse.Namespace) -> dict[str, Any]:
    """Output tokens per second at each number of streams, and the adapter's share of the base model's.

    `_by_cpu`: the same share by the server's processor time per token, which other load on the machine does not change.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
        adapter = speaker.adapter(Path(name) / "g1", generation=1, word=next(iter(speaker.words)))
        running = {}
        for kind, environment in (("grouped", NO_GUIDANCE), ("stock", STOCK_LORA)):
            log = Path(name) / f"{kind}.log"
            running[kind] = servers.enter_context(running_vllm(speaker.model, log=log, environment=environment))
            server = VllmServer(running[kind].url, api_key=API_KEY, admin_token=ADMIN_TOKEN)
            server.load(adapter.name, Path(adapter.path or ""))
            server.close()
        found: dict[str, Any] = {}
        for streams in STREAMS:
            arms = {
                name: Arm(url=running[kind].url, pid=running[kind].pid, model=model)
                for name, kind, model in (
                    ("base", "grouped", "base"),
                    ("grouped", "grouped", adapter.name),
                    ("stock", "stock", adapter.name),
                )
            }
            take_turns(arms, rounds=3, round_s=options.round, clients=streams, max_tokens=options.max_tokens)
            rates = {name: round(median(arm.rates), 1) for name, arm in arms.items()}
            cpu = {name: arm.cpu_s / (len(arm.samples) * options.max_tokens) for name, arm in arms.items()}
            shares = {f"{name}_over_base": round(rates[name] / rates["base"], 2) for name in ("grouped", "stock")}
            by_cpu = {f"{name}_over_base_by_cpu": round(cpu["base"] / cpu[name], 2) for name in ("grouped", "stock")}
            found[str(streams)] = rates | shares | by_cpu
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--round", type=float, default=8.0, help="seconds per round and arm")
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--model", choices=("tiny", "real"), default="real")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        speaker = real_speaker(MODEL) if options.model == "real" else tiny_speaker(MODEL, Path(name) / "tiny")
        figures = {
            **vars(options),
            "alias": alias_cost(speaker, options),
            "cpu_lora_tokens_per_s_by_streams": lora_cost(speaker, options),
        }
    asked_for = f'make bench-alias ALIAS="{" ".join(sys.argv[1:])}"'
    print(json.dumps(keep(f"alias-{options.model}", command=asked_for, figures=figures)))


if __name__ == "__main__":
    main()
