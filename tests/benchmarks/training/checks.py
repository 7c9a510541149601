"""The parts of `make gpu-check`: each returns figures, and `ok` where something can be right or wrong."""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from daemon.artifacts.adapter import WEIGHTS_FILE
from daemon.artifacts.examples import Example
from daemon.runtime.child import StopSignal
from daemon.training import lora
from daemon.training.batches import TrainingSet
from daemon.training.job import CHECKPOINTS, COMPLETE_MARK, TrainingJob
from tests.benchmarks.training import speed
from tests.benchmarks.training.shapes import SHAPES, fill, write_model
from tests.benchmarks.training.work import corrections, encoded, make_job, taught, write_dataset

LOSS_TOLERANCE = 1e-3
"""Relative. Sums in another order differ by about 1e-5 in float32."""
GRADIENT_TOLERANCE = 1e-3
CHILD_LIMIT_S = 120.0
BYTE_WORDS = (2, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and on which device."""

    folder: Path
    device: str
    """cpu or cuda."""
    shapes: tuple[str, ...]
    """Of the speed tests; the first is the teacher's, too."""
    examples: int
    batch_tokens: int
    threads: int | None = None

    def job(self, name: str, shape: str, **training: Any) -> TrainingJob:
        model = write_model(self.folder / shape, SHAPES[shape])
        values = {"device": self.device, "batch_tokens": self.batch_tokens, "threads": self.threads, **training}
        return make_job(self.folder / name, model, **values)


class _Recorder(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """The losses of all steps, and the gradients of the first one."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if not self.gradients:
            found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
            self.gradients = {name: grad.detach().float().cpu().clone() for name, grad in found.items()}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def correctness(plan: Plan) -> dict[str, Any]:
    """Losses and gradients of a tiny model in float32, on this device and on the CPU."""
    examples = corrections(24, words=BYTE_WORDS)
    jobs = [plan.job(f"same-{number}", "tiny", **_float32(one)) for number, one in enumerate((plan.device, "cpu"))]
    there, here = (_recorded(job, examples) for job in jobs)
    loss = max(abs(a - b) / abs(b) for a, b in zip(there.losses, here.losses, strict=True))
    gradient = max(_relative(there.gradients[name], one) for name, one in here.gradients.items() if one.any())
    return {
        "ok": loss <= LOSS_TOLERANCE and gradient <= GRADIENT_TOLERANCE,
        "steps": len(here.losses),
        "loss_difference": loss,
        "gradient_difference": gradient,
        "gradients": len(here.gradients),
    }


def speeds(plan: Plan) -> dict[str, Any]:
    """Useful tokens per second and peak memory of each shape, ours beside TRL's settings."""
    found: dict[str, Any] = {}
    with_trl = importlib.util.find_spec("trl") is not None
    for shape in plan.shapes:
        examples = corrections(plan.examples, words=BYTE_WORDS)
        arms = {"ours": partial(speed.ours, examples=examples, random_weights=True)}
        for setting in speed.TRL_SETTINGS if with_trl else ():
            arms[f"trl {setting}"] = partial(speed.trl, examples=examples, setting=setting, random_weights=True)
        found[shape] = {arm: _speed(plan.job(f"{shape}-{arm}", shape), run) for arm, run in arms.items()}
    if not with_trl:
        found["trl"] = "not installed"
    found["4bit"] = _quantised(plan)
    return found


def _quantised(plan: Plan) -> Any:
    if not importlib.util.find_spec("bitsandbytes"):
        return "bitsandbytes is not installed"
    shape = plan.shapes[-1]
    examples = corrections(plan.examples, words=BYTE_WORDS)
    job = plan.job(f"{shape}-4bit", shape, quantization="4bit")
    return {shape: {"ours": _speed(job, partial(speed.ours, examples=examples, random_weights=False))}}


def _speed(job: TrainingJob, run: Callable[[TrainingJob], speed.Speed]) -> dict[str, Any]:
    try:
        found = run(job)
    except (torch.OutOfMemoryError, RuntimeError, ValueError) as exc:
        return {"error": str(exc)[:300]}
    return {
        "tokens_per_second": round(found.per_second, 1),
        "memory_gib": round(found.memory_gib, 2),
        "tokens": found.tokens,
        "last_loss": round(found.losses[-1], 4),
    }


def teacher(plan: Plan) -> dict[str, Any]:
    """Tokens per second of the teacher's pass, prompt and completion, each row once."""
    job = plan.job("teacher", plan.shapes[0])
    training_set, pad_id = encoded(job, taught(plan.examples))
    run = _run(job, training_set, pad_id)
    fill(run._model)
    started = time.monotonic()
    done = run._ask_teacher(StopSignal())
    seconds = time.monotonic() - started
    tokens = sum(len(one.teacher) + len(one.completion) for one in training_set.taught)
    return {"ok": done, "tokens_per_second": round(tokens / seconds, 1), "rows": len(training_set.taught)}


def recipes(plan: Plan) -> dict[str, Any]:
    """First and last loss of plain corrections and of a teacher's examples; both must fall."""
    found: dict[str, Any] = {"ok": True}
    for name, examples in (("sft", corrections(24, words=BYTE_WORDS)), ("consistency", taught(24))):
        job = plan.job(f"recipe-{name}", "tiny", dtype="float32", batch_tokens=1024, epochs=5, learning_rate=5e-3)
        losses = _recorded(job, examples).losses
        parts = len(losses) // 4
        first, last = (sum(part) / parts for part in (losses[:parts], losses[-parts:]))
        found[name] = {"first_loss": round(first, 4), "last_loss": round(last, 4), "steps": len(losses)}
        found["ok"] = found["ok"] and all(map(math.isfinite, losses)) and last < first
    return found


def resume(plan: Plan) -> dict[str, Any]:
    """The training child, killed after a checkpoint and started again, gives the weights of a training in one go."""
    training = {"dtype": "float32", "batch_tokens": 512, "epochs": 5, "checkpoint_every_steps": 5}
    examples = corrections(20, words=BYTE_WORDS)
    job = plan.job("killed", "tiny", **training)
    path = write_dataset(job, examples)
    child = _child(path)
    killed_at = _kill_after_checkpoint(child, job.run_folder / CHECKPOINTS)
    code = _child(path).wait(CHILD_LIMIT_S)
    whole = plan.job("undisturbed", "tiny", **training)
    run = _run(whole, *encoded(whole, examples))
    run.run(resume=None, stop=StopSignal())
    run.save(whole.run_folder)
    weights, expected = load_file(job.adapter_folder / WEIGHTS_FILE), load_file(whole.run_folder / WEIGHTS_FILE)
    difference = max(_relative(weights[name], one) for name, one in expected.items())
    ok = code == 0 and killed_at is not None and difference <= GRADIENT_TOLERANCE
    return {"ok": ok, "killed_after_step": killed_at, "steps": run.steps, "weight_difference": difference}


def _child(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "daemon.training.trainer", str(path)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )


def _kill_after_checkpoint(child: subprocess.Popen[bytes], checkpoints: Path) -> int | None:
    """The step of the checkpoint; None if the child ended before it."""
    deadline = time.monotonic() + CHILD_LIMIT_S
    while child.poll() is None and time.monotonic() < deadline:
        if marks := sorted(checkpoints.glob(f"checkpoint-*/{COMPLETE_MARK}")):
            child.send_signal(signal.SIGKILL)
            child.wait()
            return int(marks[0].parent.name.rpartition("-")[2])
        time.sleep(0.005)
    child.kill()
    return None


def _recorded(job: TrainingJob, examples: list[Example]) -> _Recorder:
    run = _run(job, *encoded(job, examples))
    recorder = _Recorder()
    run._trainer.add_callback(recorder)
    run.run(resume=None, stop=StopSignal())
    return recorder


def _run(job: TrainingJob, training_set: TrainingSet, pad_id: int) -> lora.TrainingRun:
    return lora.TrainingRun(job, training_set, checkpoints=job.run_folder / CHECKPOINTS, pad_id=pad_id)


def _float32(device: str) -> Mapping[str, Any]:
    return {"device": device, "dtype": "float32", "batch_tokens": 1024}


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))
