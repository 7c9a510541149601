"""`make bench-poison`: attackers against the whole path, defences on and off; the last line is one JSON object.

Keeps every attempt in `--out` and goes on where it was; the tables are of all that was measured there.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from daemon.artifacts.files import write_atomically
from daemon.config import LogConfig
from daemon.dataset.split import KEY_BYTES, KEY_FILE
from daemon.errors import ErratadError
from daemon.runtime import log
from tests.benchmarks.poison.attacks import LEARNED, Goal
from tests.benchmarks.poison.defences import SETTINGS
from tests.benchmarks.poison.deployment import configured
from tests.benchmarks.poison.harms import HARMS
from tests.benchmarks.poison.learning import BEST_CASE, attack, honest_cost, screened
from tests.benchmarks.poison.people import MEASURED, Attacker
from tests.benchmarks.poison.tally import Attempt, last_line, table
from tests.benchmarks.report import keep

PAGE = Path(__file__).parents[3] / "docs" / "measurements" / "2026-11-27-poisoning.md"
SECTION = re.compile(r"(?<=<!-- poison -->\n).*?(?=<!-- end of poison -->)", re.DOTALL)
NOBODY = "none"
STAND_IN = "-stand-in"
GOALS = tuple(Goal)


def main(arguments: Sequence[str]) -> int:
    """Measure what is missing, publish and print; returns the exit code."""
    given = _parser().parse_args(arguments)
    log.configure(LogConfig(level="error", format="text"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers are stopped, too
    bench = Bench(given.out, has_model=given.model)
    try:
        for seed in range(given.seeds) if not given.kept else ():
            for defences in given.defences:
                for attacker in given.attackers:
                    bench.measure(given.goals, defences=defences, attacker=attacker, seed=seed)
        for attacker in (None, *given.attackers) if given.honest and not given.kept else ():
            bench.honest(attacker)
    except ErratadError as exc:
        say(str(exc))
        return 1
    _publish(bench, command=f"python -m tests.benchmarks.poison {shlex.join(arguments)}".strip())
    return 0


class Bench:
    """The measured attempts in a folder; what is there is not measured again."""

    def __init__(self, out: Path, *, has_model: bool = True) -> None:
        """`has_model` False: what needs the real model is not measured."""
        self._out = out.absolute()
        self._has_model = has_model
        self._results = self._out / "results"

    def measure(self, goals: Sequence[Goal], *, defences: str, attacker: Attacker, seed: int) -> None:
        """The goals that are reached by training share one; each other goal has a deployment of its own."""
        name = f"{defences}-{attacker}-{seed}"
        learned = [goal for goal in LEARNED if goal in goals]
        missing = [goal for goal in learned if not self._path(f"{name}-{goal}").exists()]
        if missing:
            for one in self._learned(name, learned, defences=defences, attacker=attacker, seed=seed):
                self._keep(f"{name}-{one.goal}", {"defences": defences, **one.as_json()})
        for goal in (goal for goal in HARMS if goal in goals and not self._path(f"{name}-{goal}").exists()):
            harm, say_of = HARMS[goal], _prefixed(name)
            made = self._fresh(
                f"{name}-{goal}",
                seed,
                [*SETTINGS[defences], "dataset.replay_fraction=0"],
                lambda config, harm=harm, say_of=say_of: harm(config, attacker=attacker, seed=seed, say=say_of),
            )
            self._keep(f"{name}-{goal}", {"defences": defences, **made.as_json()})

    def _learned(
        self, name: str, goals: Sequence[Goal], *, defences: str, attacker: Attacker, seed: int
    ) -> list[Attempt]:
        """The attempts that are reached by training; with the defences on, first without a model."""
        settings, about = [*SETTINGS[defences], f"dataset.seed={seed}"], {"attacker": attacker, "seed": seed}
        if defences == "on":
            about["say"] = _prefixed(f"{name}, stand-in")
            found = self._fresh(
                f"{name}{STAND_IN}",
                seed,
                [*settings, "dataset.replay_fraction=0"],
                lambda config: screened(config, goals, **about),
            )
            if found is not None:
                return list(found)
        if not self._has_model:
            return []
        launcher = [sys.executable, "-m", "tests.benchmarks.poison.kept_training", str(self._out / "trainings")]
        settings += [*BEST_CASE, f"training.launcher={json.dumps(launcher)}"]
        about |= {"kept": self._out / "answers", "say": _prefixed(name)}
        return list(self._fresh(name, seed, settings, lambda config: attack(config, goals, **about)))

    def honest(self, attacker: Attacker | None) -> None:
        name = f"honest-{attacker or NOBODY}{'' if self._has_model else STAND_IN}"
        if not self._path(name).exists():
            settings = [*SETTINGS["on"], "dataset.holdout_fraction=0", "dataset.max_replay_pairs=16"]
            kept = self._out / "answers" if self._has_model else None
            about = {"attacker": attacker, "kept": kept, "say": _prefixed(name)}
            self._keep(name, self._fresh(name, 0, settings, lambda config: honest_cost(config, **about)))

    def attempts(self, defences: str) -> list[Attempt]:
        documents = [json.loads(path.read_bytes()) for path in sorted(self._results.glob(f"{defences}-*.json"))]
        made = [Attempt(**{key: value for key, value in one.items() if key != "defences"}) for one in documents]
        order = list(GOALS), list(Attacker)
        return sorted(made, key=lambda one: (order[0].index(one.goal), order[1].index(one.attacker), one.seed))

    def honest_trained(self) -> dict[str, dict[str, Any]]:
        """Of the real model; of the stand-in, if there is nothing else."""
        paths = sorted(self._results.glob("honest-*.json"))
        paths = [path for path in paths if not path.stem.endswith(STAND_IN)] or paths
        return {path.stem.removeprefix("honest-"): json.loads(path.read_bytes()) for path in paths}

    def _fresh(self, name: str, seed: int, settings: Sequence[str], measured: Callable[[Any], Any]) -> Any:
        """Measure in a new data directory; the answers of the base model to ordinary prompts are shared.

        The secret key of the split is the same for all attackers of a seed, so that their training sets can be equal.
        """
        folder = self._out / "deployments" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / KEY_FILE).write_bytes(f"{seed:0>{KEY_BYTES}}".encode())
        shared = self._out / "replay"
        if shared.exists():
            shutil.copytree(shared, folder / "replay")
        try:
            return measured(configured(folder, defences=settings))
        finally:
            if (folder / "replay").exists():
                shutil.copytree(folder / "replay", shared, dirs_exist_ok=True)

    def _path(self, name: str) -> Path:
        return self._results / f"{name}.json"

    def _keep(self, name: str, document: Mapping[str, Any]) -> None:
        write_atomically(self._path(name), json.dumps(document, indent=1, ensure_ascii=False).encode())


def _publish(bench: Bench, *, command: str) -> None:
    on, off, honest = bench.attempts("on"), bench.attempts("off"), bench.honest_trained()
    line = last_line(on, off, GOALS, {name: int(one["trained"]) for name, one in honest.items()})
    markdown = _markdown(on, off, honest)
    result = keep("poison", command=command, figures={**line, "honest": honest})
    if PAGE.exists():
        section = f"{result['date']}, {result['machine']}: `{result['command']}`\n\n{markdown}\n"
        PAGE.write_text(SECTION.sub(lambda _: section, PAGE.read_text()))
    print(f"{markdown}\n")
    print(json.dumps(line))


def _markdown(on: Sequence[Attempt], off: Sequence[Attempt], honest: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [f"| {name} | {one['trained']} | {one['with_correction']} |" for name, one in honest.items()]
    cost = "\n".join(["| beside | honest lessons trained, of 100 | with their correction |", "|---|---|---|", *rows])
    return (
        f"**Defences off**\n\n{table(off)}\n\n**Defences on**\n\n{table(on)}\n\n"
        f"**Cost to honest reports, defences on**\n\n{cost}"
    )


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m tests.benchmarks.poison", description=__doc__, allow_abbrev=False)
    made.add_argument("--goals", type=_names(Goal), default=GOALS, help="separated by commas; default: all")
    made.add_argument("--attackers", type=_names(Attacker), default=MEASURED, help="default: all but half")
    made.add_argument("--defences", type=lambda text: text.split(","), default=["off", "on"], help="on, off or on,off")
    made.add_argument("--seeds", type=int, default=1, help="attempts per goal and attacker")
    made.add_argument("--honest", action=argparse.BooleanOptionalAction, default=True, help="measure the cost, too")
    made.add_argument(
        "--model", action=argparse.BooleanOptionalAction, default=True, help="train and ask; --no-model: in minutes"
    )
    made.add_argument("--out", type=Path, default=Path("var/bench-poison"), help="what was measured, to go on from")
    made.add_argument("--kept", action="store_true", help="measure nothing; show what was measured so far")
    return made


def _names(kind: type[Any]) -> Callable[[str], tuple[Any, ...]]:
    def names(text: str) -> tuple[Any, ...]:
        return tuple(kind(name) for name in text.split(","))

    return names


def _prefixed(name: str) -> Callable[[str], None]:
    return lambda text: say(f"{name}: {text}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
