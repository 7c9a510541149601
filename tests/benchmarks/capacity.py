"""What a deployment needs, by its size: `python -m tests.benchmarks.capacity` prints the tables of docs/capacity.md.

Simulated, not measured. The costs of erratad's own parts are those of tests/benchmarks/results/. The speed of a GPU is
arithmetic (`Model.speed`) with an assumed share of its peak, because no GPU was measured: put your own figures in.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from daemon.config.dataset import DatasetConfig
from daemon.config.evaluation import EvaluationConfig
from daemon.config.trust import ReproduceConfig
from tests.benchmarks import gate_power
from tests.benchmarks.report import RESULTS

HOURS = 24
DAY_S = 86_400
PEAK = 1.6
"""The busiest hour of a day over its mean."""
DAYS = 14
RUN_HOUR = 3
SEED = 1
ROUNDING = 1e-6

PROMPT, ANSWER, ANALYSIS = 500, 200, 160
"""Tokens of a conversation, of an answer and of an analysis."""
REPORTS_PER_DAY = (1_000, 100_000, 10_000_000)
ANSWERS_PER_S = (1_000, 100_000)
DUPLICATES = 0.3
"""Share of the reports that repeat another one, and cost the model nothing."""
TARGET_LOAD = 0.7
"""Share of their speed at which servers are used in the busiest hour."""
EPOCHS, EXAMPLES_PER_LESSON, OTHER_TASKS = 3.0, 2, 400
"""OTHER_TASKS: questions of the gate that no report asks, to each of both generations."""
STORED_BYTES = 1_700
"""Per report in the database, with its indexes (docs/measurements/2026-11-27-archive.md)."""

PEAK_FLOPS, MEMORY_BYTES_PER_S, MEMORY_BYTES = 989e12, 3.35e12, 80e9
"""One H100 SXM: bfloat16 without sparsity, by its maker's data sheet."""
SHARE_OF_FLOPS, SHARE_OF_BANDWIDTH = 0.4, 0.5
MOST_ANSWERS = 256
"""vLLM's own limit of answers at a time."""
FLOPS_PER_TRAINED_TOKEN = 5
"""Per parameter: two forward, two back (frozen weights need no gradients), and the base model's two at half of them."""


class Speed(NamedTuple):
    """Of one replica, in tokens per second."""

    prompt: float
    answer: float
    training: float

    def seconds(self, *, prompt: float, answer: float) -> float:
        return prompt / self.prompt + answer / self.answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    name: str
    parameters: float
    kv_bytes: int
    """Per token of context."""
    gpus: int
    """Of a replica (serving.tensor_parallel_size)."""

    def speed(self) -> Speed:
        """By the slower of arithmetic and memory, with as many answers at a time as the memory holds."""
        weights = 2 * self.parameters
        room = 0.9 * MEMORY_BYTES * self.gpus - weights
        at_once = min(MOST_ANSWERS, int(room / (self.kv_bytes * (PROMPT + ANSWER))))
        flops = PEAK_FLOPS * SHARE_OF_FLOPS * self.gpus
        read = weights + at_once * self.kv_bytes * (PROMPT + ANSWER)
        step = max(read / (MEMORY_BYTES_PER_S * SHARE_OF_BANDWIDTH * self.gpus), weights * at_once / flops)
        return Speed(flops / weights, at_once / step, flops / (FLOPS_PER_TRAINED_TOKEN * self.parameters))


MODELS = (
    Model(name="1.5B", parameters=1.5e9, kv_bytes=28_672, gpus=1),
    Model(name="8B", parameters=8e9, kv_bytes=131_072, gpus=1),
    Model(name="70B", parameters=70e9, kv_bytes=327_680, gpus=4),
)
"""The bytes are those of Qwen2.5 1.5B, Llama 3.1 8B and Llama 3.1 70B in bfloat16: 2 x layers x heads x size x 2."""


@cache
def measured(name: str) -> Any:
    """A file of tests/benchmarks/results/."""
    return json.loads((RESULTS / f"{name}.json").read_bytes())


def asked_share() -> float:
    """Of the server's best speed, what erratad's questions reach."""
    rounds = measured("ask-tiny")["rounds"]
    shares = sorted(one["ours"]["tokens_per_second"] / one["peer"]["tokens_per_second"] for one in rounds)
    return float(shares[len(shares) // 2])


def replicas(model: Model, answers_per_s: float) -> int:
    """Servers that users need with this rate in the busiest hour, erratad or not."""
    seconds = model.speed().seconds(prompt=PROMPT, answer=ANSWER)
    return math.ceil(answers_per_s * seconds / TARGET_LOAD)


def report_seconds(model: Model) -> float:
    """Seconds of one replica for one report: is the mistake made again, why is it one, what would be right?"""
    samples = ReproduceConfig().samples
    prompt = samples * PROMPT + (PROMPT + ANSWER + ANALYSIS) + PROMPT
    answer = samples * ANSWER + ANALYSIS + ANSWER
    return model.speed().seconds(prompt=prompt, answer=answer) / asked_share()


class RunTime(NamedTuple):
    """Minutes of one run."""

    questions: float
    training: float
    gate: float


def run_time(model: Model, lessons: int, *, servers: float) -> RunTime:
    """Of a run with this many lessons. `servers`: replicas that its questions may fill. Training has one's GPUs."""
    dataset, evaluation, speed = DatasetConfig(), EvaluationConfig(), model.speed()
    share = asked_share() * servers
    trained = lessons * (1 - dataset.holdout_fraction)
    own = trained * dataset.own_answers.count
    asked = speed.seconds(
        prompt=(trained * 2 + own + dataset.max_replay_pairs) * PROMPT,
        answer=trained * 2 * dataset.teacher_tokens
        + own * dataset.own_answers.max_tokens
        + dataset.max_replay_pairs * dataset.replay_max_tokens,
    )
    examples = trained * EXAMPLES_PER_LESSON / (1 - dataset.replay_fraction)
    items = 2 * (gate_items(lessons) * evaluation.answers_per_report + OTHER_TASKS)
    gate = speed.seconds(prompt=items * PROMPT, answer=items * ANSWER)
    training = examples * (PROMPT + ANSWER) * EPOCHS / speed.training
    return RunTime(asked / share / 60, training / 60, gate / share / 60)


def gate_items(lessons: int) -> int:
    """Reports whose answers decide on a candidate."""
    most = EvaluationConfig().max_items_per_suite
    held_out = DatasetConfig().holdout_fraction * lessons
    return int(min(most, held_out) + min(most, lessons - held_out))


class Outcome(NamedTuple):
    """After the simulated days. Repeated reports do not count."""

    looked_at: float
    """Share of the reports that the model was asked about."""
    wait_hours: int
    """Age of the oldest that waits for it."""
    trained: float
    """Share of the reports that were in a run."""


def simulate(model: Model, *, answers_per_s: float, reports_per_day: float) -> Outcome:
    """Hour by hour: users come first, and reports are looked at with what is left, the oldest first.

    There are as many replicas as users need in their busiest hour. A run begins at three each night with the lessons of
    the reports that were looked at since the last one, as many as it may take.
    """
    draw = random.Random(SEED)
    servers = replicas(model, answers_per_s)
    user_s = model.speed().seconds(prompt=PROMPT, answer=ANSWER)
    each_s, most = report_seconds(model), DatasetConfig().max_reports
    arrived = looked_at = trained = lessons = 0.0
    seen: list[float] = []
    for hour in range(DAYS * HOURS):
        wave = 1 + (PEAK - 1) * math.sin(2 * math.pi * (hour % HOURS - 9) / HOURS)
        mean = reports_per_day / HOURS * wave * (1 - DUPLICATES)
        arrived += max(0.0, draw.gauss(mean, math.sqrt(mean)))
        seen.append(arrived)
        idle_s = max(0.0, servers - answers_per_s / PEAK * wave * user_s) * 3600
        done = min(arrived - looked_at, idle_s / each_s)
        looked_at, lessons = looked_at + done, lessons + done
        if hour % HOURS == RUN_HOUR:
            trained, lessons = trained + min(lessons, most), 0.0
    waits = sum(count > looked_at + ROUNDING for count in seen)
    return Outcome(looked_at / arrived, waits, trained / arrived)


def tables() -> dict[str, str]:
    """The tables by their titles, as the page has them."""
    return {
        "Speed of one replica (arithmetic, tokens per second)": _table(
            ["model", "GPUs", "prompt", "answer", "training"],
            ([one.name, one.gpus, *(f"{figure:,.0f}" for figure in one.speed())] for one in MODELS),
        ),
        "Replicas (GPUs) that users need in the busiest hour": _table(
            ["answers per second", *(one.name for one in MODELS)],
            (
                [f"{rate:,}", *(f"{replicas(one, rate):,} ({replicas(one, rate) * one.gpus:,})" for one in MODELS)]
                for rate in ANSWERS_PER_S
            ),
        ),
        "Intake and store": _table(
            ["reports a day", "cores for intake, busiest hour", "database grows a year"],
            ([f"{count:,}", *_intake(count)] for count in REPORTS_PER_DAY),
        ),
        f"Reports looked at in idle time, after {DAYS} days (age of the oldest that waits)": _looked_at(),
        "Minutes of one run (questions, training, gate), one free replica": _table(
            ["lessons", *(one.name for one in MODELS)],
            (
                [f"{lessons:,}", *(_minutes(run_time(one, lessons, servers=1)) for one in MODELS)]
                for lessons in (50, 500, 5_000)
            ),
        ),
        "Candidates that the gate accepts, by the lessons of a run": _power(),
    }


def _intake(reports_per_day: int) -> Iterator[str]:
    cores = reports_per_day / DAY_S * PEAK / measured("intake")["intake_per_cpu_s"]
    yield f"{cores:.2f}" if cores >= 0.01 else "under 0.01"
    gigabytes = reports_per_day * 365 * STORED_BYTES / 1e9
    yield f"{gigabytes:,.0f} GB" if gigabytes < 1_000 else f"{gigabytes / 1000:.1f} TB"


def _looked_at() -> str:
    rows = []
    for rate in (10, *ANSWERS_PER_S):
        for count in REPORTS_PER_DAY:
            answers = rate / PEAK * DAY_S
            if count > answers:
                continue
            found = [simulate(one, answers_per_s=rate, reports_per_day=count) for one in MODELS]
            cells = (f"{one.looked_at:.0%} ({one.wait_hours} h)" for one in found)
            rows.append(
                [f"{rate:,}", f"{count:,}", f"{answers / count:,.0f}", *cells, f"{100 * found[0].trained:.2g}%"]
            )
    head = [
        "answers per second",
        "reports a day",
        "answers per report",
        *(one.name for one in MODELS),
        "in a run",
    ]
    return _table(head, rows)


def _minutes(parts: RunTime) -> str:
    return f"{sum(parts):.0f} ({', '.join(f'{part:.0f}' for part in parts)})"


def _power() -> str:
    sizes = (50, 100, 500)
    head = ["true rates", *(f"{lessons:,} lessons ({gate_items(lessons)} items)" for lessons in sizes)]
    rows = []
    for gained, lost, words in gate_power.FIXES:
        shares = (gate_power.share(gate_power.is_better, gate_items(n), gained=gained, lost=lost) for n in sizes)
        rows.append([f"gained {gained:.0%}, lost {lost:.0%} ({words})", *(f"{share:.0%}" for share in shares)])
    return _table(head, rows)


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def main() -> None:
    print("\n\n".join(f"**{title}**\n\n{rows}" for title, rows in tables().items()))


if __name__ == "__main__":
    main()
