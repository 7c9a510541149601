"""`make probe-teacher`: what a model could learn from a teacher, by kind of mistake, before anything is trained.

The model is asked questions that it may answer badly: questions.jsonl, and with --data those of `make bench-quality`.
Its own mistakes become lessons; each teacher is tested on them as a run does it, and what the complaint takes from the
bad answers is measured. Prints a table, then one JSON line. Answers are kept in --out; an interrupted probe goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from connectors.vllm import VllmServer
from daemon.artifacts.base_model import base_fingerprint
from daemon.categories import Kind
from daemon.config import Config, LogConfig, load_config
from daemon.config.dataset import DatasetConfig, OwnAnswersConfig
from daemon.dataset.answers import Answers
from daemon.dataset.flips import best_recipe
from daemon.dataset.recipes import AUTO
from daemon.dataset.teachers import CONSISTENCY, CONTEXT_DISTILLATION, TAUGHT, with_complaint
from daemon.dataset.teaching import OTHERWISE, Lessons, Teaching
from daemon.demo.process import model_dir
from daemon.demo.scenario import load_scenario
from daemon.errors import ErratadError, ServingError
from daemon.records import Report, conversation
from daemon.runtime import log
from daemon.runtime.stage import Life
from daemon.serving.connect import open_serving
from daemon.serving.fleet import Fleet
from daemon.training.teacher import LARGEST_ADVANTAGE
from tests.benchmarks.quality.data import PublicData
from tests.benchmarks.quality.lessons import Analyst, Asked, Collector
from tests.benchmarks.quality.probes import Probe, Scenario, Trap, Wants
from tests.benchmarks.quality.scenarios import SCENARIOS
from tests.benchmarks.report import keep

QUESTIONS = Path(__file__).with_name("questions.jsonl")
"""32 questions of three kinds, in the form of a demo's scenario."""
STREAMS = 16
STARTS_IN_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of mistake of one model. Flips: (lessons with a teacher that passed, lessons with a teacher)."""

    model: str
    kind: str
    asked: int
    mistakes: int
    consistency: tuple[int, int]
    context_distillation: tuple[int, int]
    auto: str
    """The recipe that `auto` would choose."""
    advantage: float | None
    """Mean of |A| of the bad answers, nats per token; None without complaints."""


def main(arguments: Sequence[str]) -> int:
    """Probe, publish and print; returns the exit code."""
    given = _parser().parse_args(arguments)
    log.configure(LogConfig(level="warning", format="text"))
    try:
        rows = [row for config in _targets(given) for row in _probed(config, given)]
    except ErratadError as exc:
        print(exc, file=sys.stderr)
        return 1
    result = keep(
        "teachers",
        command=f"python -m tests.benchmarks.teachers {' '.join(arguments)}".strip(),
        figures={"rows": [asdict(row) for row in rows]},
    )
    print(table(rows))
    print(json.dumps(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m tests.benchmarks.teachers", description=__doc__, allow_abbrev=False)
    add = made.add_argument
    add("--config", type=Path, action="append", default=[], help="an erratad configuration: its model, its servers")
    add("--model", type=Path, action="append", default=[], help="a folder; default without --config: the demo's model")
    add("--data", type=Path, help="folder with the public data sets of `make bench-quality`")
    add("--size", type=float, default=0.6, help="scale of the numbers of questions of --data")
    add("--threads", type=int, default=2, help="CPU threads of a server that is started")
    add("--out", type=Path, default=Path("var/probe-teacher"), help="keeps every answer, to go on from")
    return made


def _targets(given: argparse.Namespace) -> list[Config]:
    """Servers are started on a free port, beside those of a running daemon; attached ones are used as they are."""
    configs = [load_config(path) for path in given.config]
    models = given.model or ([] if configs else [model_dir()])
    started = {"device": "auto", "cpu_threads": given.threads, "max_model_len": 1024}
    configs += [Config.model_validate({"model": {"path": path}, "serving": started}) for path in models]
    return [
        config.model_copy(
            update={"data_dir": given.out / _name(config), "serving": config.serving.model_copy(update={"port": 0})}
        )
        for config in configs
    ]


def _name(config: Config) -> str:
    return f"{config.model.path.name}-{base_fingerprint(config.model.path)[:8]}"


def _scenarios(given: argparse.Namespace) -> list[Scenario]:
    made = [] if given.data is None else [make(PublicData(given.data), given.size) for make in SCENARIOS.values()]
    return [*made, Scenario(name="questions", traps=tuple(_traps()), probes=())]


def _traps() -> Iterator[Trap]:
    for one in load_scenario(QUESTIONS):
        messages = tuple(one.wire)
        probe = Probe(suite="demo", id=one.id, messages=messages, wants=Wants.RULES, checks=one.checks)
        yield Trap(
            id=one.id,
            category=one.category,
            messages=messages,
            reason=one.reason,
            probe=probe,
            correction=one.correction,
        )


def _probed(config: Config, given: argparse.Namespace) -> list[Row]:
    scenarios = _scenarios(given)
    with serving(config) as fleet:
        server, base = fleet.any(), config.serving.base_name
        collector = Collector(
            base=Asked(endpoint=server, model=base),
            score=lambda messages, answer: server.score(base, messages, answer).per_token,
            folder=config.data_dir / "mistakes",
            concurrency=STREAMS,
        )
        lessons = []
        for scenario in scenarios:
            mistakes = collector.mistakes(scenario)
            made = collector.lessons(scenario, mistakes, Analyst.TEMPLATE)
            lessons += [(one.report(), lesson) for one, lesson in zip(mistakes, made, strict=True)]
        asked = [trap.category for scenario in scenarios for trap in scenario.traps]
        return probe(config, fleet, lessons, asked)


def probe(config: Config, fleet: Fleet, lessons: Lessons, asked: Sequence[str]) -> list[Row]:
    """The rows of one model. `asked`: the categories of all questions."""
    answers = Answers(
        fleet=fleet,
        base_name=config.serving.base_name,
        folder=config.data_dir / "lesson_answers",
        fingerprint=base_fingerprint(config.model.path),
    )
    teaching = Teaching(
        recipe_name=AUTO,
        by_kind={},
        answers=answers,
        guidance=config.serving.guidance,
        config=DatasetConfig(own_answers=OwnAnswersConfig(count=0)),
    )
    while missing := teaching.missing(lessons):
        _say(f"{len(missing)} answers are missing")
        teaching.ask(missing)
    rows = []
    for kind in Kind:
        of_kind = [one for one in lessons if one[0].kind is kind]
        if not of_kind:
            continue
        rates = {name: teaching.rate(name, of_kind) for name in TAUGHT}
        counts = {name: (rate.flipped, rate.lessons) for name, rate in rates.items()}
        rows.append(
            Row(
                model=config.model.path.name,
                kind=kind.value,
                asked=sum(category == kind.value for category in asked),
                mistakes=len(of_kind),
                consistency=counts[CONSISTENCY],
                context_distillation=counts[CONTEXT_DISTILLATION],
                auto=best_recipe(kind, rates, otherwise=OTHERWISE),
                advantage=_advantage(fleet.any(), config.serving.base_name, [report for report, _ in of_kind]),
            )
        )
    return rows


def _advantage(server: VllmServer, base: str, reports: Sequence[Report]) -> float | None:
    """As the trainer computes it: A = log p(token | complaint) - log p(token), between -5 and 0."""
    means = []
    for report in reports:
        told, answer = with_complaint(report), report.flagged.response
        if told is None:
            continue
        blamed = server.token_logprobs(base, told, answer)
        plain = server.token_logprobs(base, conversation(report), answer)
        taken = [min(max(before - now, 0.0), LARGEST_ADVANTAGE) for now, before in zip(blamed, plain, strict=True)]
        if taken:
            means.append(fmean(taken))
    return fmean(means) if means else None


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    lines = [
        "| model | kind | mistakes of asked | consistency helps | context-distillation helps | auto | mean A, nats |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        flips = [f"{good} of {of}" if of else "no teacher" for good, of in (row.consistency, row.context_distillation)]
        advantage = "-" if row.advantage is None else f"{row.advantage:.2f}"
        cells = [row.model, row.kind, f"{row.mistakes} of {row.asked}", *flips, row.auto, advantage]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@contextmanager
def serving(config: Config) -> Iterator[Fleet]:
    """The configured servers, once one is ready."""
    fleet, stage = open_serving(config)
    life, deadline, sentence = Life(threading.Event()), time.monotonic() + STARTS_IN_S, ""
    try:
        while not any(server.ready() for server in fleet.servers):
            if time.monotonic() > deadline:
                raise ServingError(f"no server of {config.model.path} became ready: {sentence}")
            if stage is not None:
                said = stage.step(life).sentence
                if said != sentence:
                    _say(sentence := said)
            time.sleep(1.0)
        yield fleet
    finally:
        if stage is not None:
            stage.close()
        fleet.close()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
