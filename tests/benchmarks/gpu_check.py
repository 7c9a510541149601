"""`make gpu-check`: the trainer on a GPU in under ten minutes, with nothing but PyTorch, transformers and peft there.

Correctness against the CPU, speed and memory beside TRL (if it can be imported), the teacher's pass, a kill, and two
recipes. A part that fails does not end the others. The last line is one JSON object; a page goes to `--report`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.training import checks

PARTS: Mapping[str, Callable[[checks.Plan], dict[str, Any]]] = {
    "correctness": checks.correctness,
    "resume": checks.resume,
    "recipes": checks.recipes,
    "teacher": checks.teacher,
    "speed": checks.speeds,
}
"""The cheap ones first: what runs out of time is the speed of the largest model."""
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "bitsandbytes")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    started = time.monotonic()
    found: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), **_machine()}
    with tempfile.TemporaryDirectory() as folder:
        plan = _plan(Path(folder), tiny=options.tiny)
        for name, part in PARTS.items():
            if time.monotonic() - started > options.seconds:
                found[name] = {"skipped": "no time left"}
                continue
            found[name] = _tried(name, part, plan)
    found["seconds"] = round(time.monotonic() - started, 1)
    found["ok"] = all(found[name].get("ok", "error" not in found[name]) for name in PARTS)
    if options.report is not None:
        options.report.mkdir(parents=True, exist_ok=True)
        (options.report / f"{found['date']}-gpu-check.md").write_text(page(found))
    print(json.dumps(found))
    return 0 if found["ok"] else 1


def page(found: Mapping[str, Any]) -> str:
    """The results as a page of the notebook."""
    packages = ", ".join(f"{name} {one}" for name, one in found["packages"].items())
    lines = [
        f"# The trainer on a GPU ({found['date']})",
        "",
        f"`make gpu-check`, {found['device']}, {packages}; {found['seconds']:.0f} s in all. Random weights, LoRA r 16.",
        "",
        "| shape | trainer | useful tokens per second | peak memory, GiB |",
        "|---|---|---|---|",
    ]
    for shape, arms in found["speed"].items():
        for arm, one in arms.items() if isinstance(arms, dict) else ():
            if "tokens_per_second" in one:
                lines.append(f"| {shape} | {arm} | {one['tokens_per_second']} | {one['memory_gib']} |")
            else:
                lines.append(f"| {shape} | {arm} | {json.dumps(one)} | |")
    lines += [f"- {name}: {one}" for name, one in found["speed"].items() if isinstance(one, str)]
    lines += ["", *(f"- {name}: `{json.dumps(found[name])}`" for name in PARTS if name != "speed")]
    return "\n".join([*lines, ""])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="on the CPU with tiny shapes, to try the check itself")
    parser.add_argument("--report", type=Path, help="folder for the page, e.g. docs/measurements")
    parser.add_argument("--seconds", type=float, default=480.0, help="no further part begins after this time")
    return parser


def _plan(folder: Path, *, tiny: bool) -> checks.Plan:
    if tiny or not torch.cuda.is_available():
        return checks.Plan(folder=folder, device="cpu", shapes=("tiny",), examples=24, batch_tokens=1024, threads=1)
    return checks.Plan(folder=folder, device="cuda", shapes=("1.5B", "8B"), examples=256, batch_tokens=4096)


def _tried(name: str, part: Callable[[checks.Plan], dict[str, Any]], plan: checks.Plan) -> dict[str, Any]:
    started = time.monotonic()
    try:
        found = part(plan)
    except Exception as exc:
        traceback.print_exc()
        found = {"ok": False, "error": f"{type(exc).__name__}: {exc}"[:300]}
    print(f"{name}: {json.dumps(found)}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return found


def _machine() -> dict[str, Any]:
    on_gpu = torch.cuda.is_available()
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if on_gpu else f"no GPU, {platform.machine()}, {os.cpu_count()} cores"
    return {"device": device, "packages": found}


if __name__ == "__main__":
    sys.exit(main())
