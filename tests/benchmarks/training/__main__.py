"""`make bench-train`: useful tokens per CPU-second of our trainer, TRL's best setting, and TRL's default.

All arms train the same examples with the same LoRA in one process, in turns. The loss is plain cross-entropy on
answers, which TRL has, too. TRL's best is the fastest of its settings on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from daemon.runtime.machine import cpu_has_bfloat16
from tests.benchmarks.report import keep
from tests.benchmarks.training import speed
from tests.benchmarks.training.shapes import SHAPES, write_model
from tests.benchmarks.training.work import corrections, make_job

DEMO = "135M"
DEMO_MODEL = Path.home() / ".cache" / "erratad" / "smollm2-135m-instruct"
OURS = "ours"
WORDS = {DEMO: (8, 90)}
"""Of prompts; those for models with a tokenizer of bytes are as long in tokens."""
BYTE_WORDS = (2, 16)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory() as folder:
        found = {name: _compare(name, options, Path(folder) / name) for name in options.models}
    for name, figures in found.items():
        print(f"{name}: " + ", ".join(f"{arm} {value:.1f}" for arm, value in figures["arms"].items()))
    line = {**_three(found[options.models[0]]), **{name: _three(one) for name, one in found.items()}}
    if options.keep:
        keep("train", command="make bench-train", figures={**line, "models": found})
    print(json.dumps(line))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[DEMO, "1B"], choices=[DEMO, *SHAPES])
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="write tests/benchmarks/results/train.json")
    return parser


def _compare(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Tokens per CPU-second by arm, the median of all rounds."""
    model = DEMO_MODEL if name == DEMO else write_model(folder / "model", SHAPES[name])
    examples = corrections(options.examples, words=WORDS.get(name, BYTE_WORDS))
    rounds: dict[str, list[speed.Speed]] = {}
    for number in range(options.rounds):
        for arm in (OURS, *speed.TRL_SETTINGS):
            job = make_job(
                folder / f"{number}-{arm}",
                model,
                device="cpu",
                dtype="bfloat16" if cpu_has_bfloat16() else "float32",
                batch_tokens=options.batch_tokens,
                threads=options.threads,
            )
            random = name != DEMO
            if arm == OURS:
                measured = speed.ours(job, examples, random_weights=random)
            else:
                measured = speed.trl(job, examples, arm, random_weights=random)
            print(f"{name}, round {number + 1}, {arm}: {measured.per_cpu_second:.1f}", file=sys.stderr)
            rounds.setdefault(arm, []).append(measured)
    return {
        "arms": {arm: round(median(one.per_cpu_second for one in found), 2) for arm, found in rounds.items()},
        "rounds": {arm: [round(one.per_cpu_second, 2) for one in found] for arm, found in rounds.items()},
        "tokens": {arm: found[0].tokens for arm, found in rounds.items()},
        "last_losses": {arm: found[0].losses[-1] for arm, found in rounds.items()},
        "dtype": "bfloat16" if cpu_has_bfloat16() else "float32",
        "batch_tokens": options.batch_tokens,
        "threads": options.threads,
    }


def _three(found: dict[str, Any]) -> dict[str, float]:
    arms = found["arms"]
    best = max(value for arm, value in arms.items() if arm not in {OURS, "default"})
    return {"ours": arms[OURS], "trl_best": max(best, arms["default"]), "trl_default": arms["default"]}


if __name__ == "__main__":
    sys.exit(main())
