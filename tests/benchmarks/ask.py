"""`make bench-ask`: do erratad's questions keep a server as busy as `vllm bench serve` at its best concurrency?

One real server answers both in turn: first vLLM's own benchmark at several concurrencies, then erratad and the
benchmark at the best of them, round after round. Both ask for the same ordinary prompts, with a seed each, over
/v1/chat/completions. Erratad's first round begins at the floor of its limit; later ones go on with what it found.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.vllm import VllmServer
from daemon.config.serving import AskingConfig
from daemon.dataset.answers import Answers, Draw
from daemon.dataset.replay import TEMPERATURE, Prompt, read_prompts
from daemon.serving.fleet import Fleet
from daemon.serving.limit import AdaptiveLimit
from tests.benchmarks.processes import cpu_seconds
from tests.benchmarks.report import keep
from tests.benchmarks.swap import MODEL
from tests.benchmarks.words import tiny_speaker
from tests.fixtures.servers import ADMIN_TOKEN, API_KEY, Running, running_vllm

FINGERPRINT = "0" * 64
WANTED = 0.9
BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""What `vllm bench serve` runs; the command itself asks for the metadata of a distribution named `vllm`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Output tokens, the seconds from the first question to the last answer, and the server's processor time."""

    tokens: int
    seconds: float
    cpu_s: float

    @property
    def per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def figures(self) -> dict[str, float]:
        return {
            "tokens": self.tokens,
            "seconds": round(self.seconds, 2),
            "tokens_per_second": round(self.per_second, 1),
            "tokens_per_cpu_second": round(self.tokens / self.cpu_s, 1),
        }


class Ours:
    """Asks as the dataset stage does: `Answers`, over a fleet with an adaptive limit."""

    def __init__(self, running: Running, prompts: Sequence[Prompt], *, tokens: int, folder: Path) -> None:
        self._running = running
        self._prompts = prompts
        self._tokens = tokens
        self._folder = folder
        self._server = VllmServer(running.url, api_key=API_KEY, admin_token=ADMIN_TOKEN)
        self.limit = AdaptiveLimit(**AskingConfig().model_dump())
        self._fleet = Fleet([self._server], verify=lambda _adapter: None, limit=self.limit)
        self._rounds = itertools.count()

    def ask(self) -> Round:
        number = next(self._rounds)
        answers = Answers(
            fleet=self._fleet, base_name="base", folder=self._folder / str(number), fingerprint=FINGERPRINT
        )
        draws = [
            Draw.of(prompt, max_tokens=self._tokens, temperature=TEMPERATURE, report_id=str(index), number=number)
            for index, prompt in enumerate(self._prompts)
        ]
        before, begun, cpu = self._written(), time.monotonic(), cpu_seconds(self._running.pid)
        answers.ask(draws)
        seconds = time.monotonic() - begun
        return Round(tokens=self._written() - before, seconds=seconds, cpu_s=cpu_seconds(self._running.pid) - cpu)

    def _written(self) -> int:
        """Tokens of answers, as the server counts them."""
        lines = self._server._send("GET", "/metrics", headers=self._server._admin_headers).text.splitlines()
        [line] = [one for one in lines if one.startswith("vllm:generation_tokens_total{")]
        return int(float(line.rsplit(" ", 1)[1]))

    def close(self) -> None:
        self._server.close()


class Peer:
    """`vllm bench serve` in a process of its own."""

    def __init__(self, running: Running, prompts: Sequence[Prompt], *, tokens: int, model: Path, folder: Path) -> None:
        self._running = running
        self._tokens = tokens
        self._model = model
        self._folder = folder
        self._count = len(prompts)
        self._data = folder / "prompts.json"
        turns = [[{"value": prompt[-1]["content"]}, {"value": ""}] for prompt in prompts]
        self._data.write_text(json.dumps([{"conversations": conversation} for conversation in turns]))

    def ask(self, concurrency: int) -> Round:
        cpu = cpu_seconds(self._running.pid)
        result = self._folder / "result.json"
        done = subprocess.run(
            self._command(concurrency, result),
            env={
                **os.environ,
                "OPENAI_API_KEY": API_KEY,
                "HF_HUB_OFFLINE": "1",
                "VLLM_PLUGINS": "",
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not result.exists():
            raise RuntimeError(done.stdout[-1000:] + done.stderr[-3000:])
        found = json.loads(result.read_text())
        result.unlink()
        if found["completed"] != self._count:
            raise RuntimeError(f"only {found['completed']} of {self._count} questions were answered")
        return Round(
            tokens=found["total_output_tokens"],
            seconds=found["duration"],
            cpu_s=cpu_seconds(self._running.pid) - cpu,
        )

    def _command(self, concurrency: int, result: Path) -> list[str]:
        body = json.dumps({"temperature": TEMPERATURE, "seed": 1})
        return [
            *(sys.executable, "-c", BENCH_SERVE, "--backend", "openai-chat"),
            *("--base-url", self._running.url, "--endpoint", "/v1/chat/completions"),
            *("--model", "base", "--tokenizer", str(self._model), "--extra-body", body),
            *("--dataset-name", "sharegpt", "--dataset-path", str(self._data)),
            *("--sharegpt-output-len", str(self._tokens), "--num-prompts", str(self._count)),
            *("--max-concurrency", str(concurrency), "--disable-tqdm", "--ready-check-timeout-sec", "0"),
            *("--save-result", "--result-dir", str(result.parent), "--result-filename", result.name),
        ]


def measure(model: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    prompts = list(itertools.islice(itertools.cycle(read_prompts(None)), options.questions))
    with running_vllm(model, log=folder / "server.log") as running:
        ours = Ours(running, prompts, tokens=options.tokens, folder=folder / "answers")
        peer = Peer(running, prompts, tokens=options.tokens, model=model, folder=folder)
        tried = {concurrency: peer.ask(concurrency) for concurrency in options.concurrency}
        best = max(tried, key=lambda concurrency: tried[concurrency].per_second)
        first = ours.ask()
        pairs = []
        for _ in range(options.rounds):
            theirs = peer.ask(best)
            pairs.append((ours.ask(), theirs))
        ours.close()
    ratios = [own.per_second / theirs.per_second for own, theirs in pairs]
    return {
        "peer": {str(concurrency): one.figures for concurrency, one in tried.items()},
        "best_concurrency": best,
        "limit": ours.limit.value,
        "from_the_floor": first.figures,
        "rounds": [{"ours": own.figures, "peer": theirs.figures} for own, theirs in pairs],
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio": round(statistics.median(ratios), 3),
        "wanted": WANTED,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=192)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--model", choices=("tiny", "real"), default="tiny")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = MODEL if options.model == "real" else tiny_speaker(MODEL, folder / "tiny").model
        measured = measure(model, options, folder)
    command = f'make bench-ask ASK="{" ".join(sys.argv[1:])}"'
    print(json.dumps(keep(f"ask-{options.model}", command=command, figures={**vars(options), **measured})))
    return int(measured["ratio"] < WANTED)


if __name__ == "__main__":
    raise SystemExit(main())
