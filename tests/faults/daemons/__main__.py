"""`make drill-daemons`: repeats every drill, adds each outcome to a file, and prints the counts as one JSON line."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.report import keep
from tests.faults.daemons.drill import FAULTS, STEPS, drill
from tests.faults.daemons.stand import LEASE_S, stand
from tests.fixtures.models import write_tiny_model

MODEL = Path.home() / ".cache" / "erratad" / "smollm2-135m-instruct"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="drill-daemons", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no drill after this time")
    parser.add_argument("--only", default="", help="drills whose name has this text, e.g. leader or training")
    parser.add_argument(
        "--outcomes", type=Path, default=Path("build/drill-daemons.jsonl"), help="added to, and counted"
    )
    parser.add_argument("--count", action="store_true", help="only count")
    given = parser.parse_args(arguments)
    given.outcomes.parent.mkdir(parents=True, exist_ok=True)
    if not given.count:
        _run(given.outcomes, only=given.only, until=time.monotonic() + given.seconds)
    figures = counted(_read(given.outcomes))
    print(json.dumps(keep("drill-daemons", command="make drill-daemons", figures=figures)))
    return 0


def _run(outcomes: Path, *, only: str, until: float) -> None:
    """Those repeated least come first, in an order that mixes faults and steps. A failure ends the stand, too."""
    names = [(*fault, step) for step in STEPS for fault in FAULTS if only in " ".join((*fault, step))]
    random.Random(0).shuffle(names)
    done = Counter(dict.fromkeys(names, 0))
    done.update(name for one in _read(outcomes) if (name := _name(one)) in done)
    while time.monotonic() < until:
        with tempfile.TemporaryDirectory(prefix="drill-") as place:
            folder = Path(place)
            with stand(folder, write_tiny_model(MODEL, folder / "model")) as made:
                number = 0
                while time.monotonic() < until:
                    name = min(names, key=done.__getitem__)
                    number += 1
                    began = time.monotonic()
                    outcome = drill(made, number, *name)
                    done[name] += 1
                    with outcomes.open("a") as file:
                        file.write(
                            json.dumps({**outcome.as_dict(), "seconds": round(time.monotonic() - began, 1)}) + "\n"
                        )
                    print(outcome, file=sys.stderr)
                    if not outcome.passed:
                        break


def _read(outcomes: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcomes.read_text().splitlines()] if outcomes.exists() else []


def _name(outcome: dict[str, Any]) -> tuple[Any, ...]:
    return outcome["target"], outcome["fault"], outcome["step"]


def counted(outcomes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Per target and fault: drills, how they ended, and the slowest change of leader."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in outcomes:
        groups.setdefault(f"{one['target']} {one['fault']}", []).append(one)
    return {
        "lease_s": LEASE_S,
        "drills": sum(map(len, groups.values())),
        **{
            name: {
                "drills": len(group),
                "by_step": dict(Counter(one["step"] for one in group)),
                "passed": sum(one["passed"] for one in group),
                "lost": sum(one["lost"] for one in group),
                "doubled": sum(one["doubled"] for one in group),
                "runs": sum(one["runs"] for one in group),
                "slowest_failover_s": max((one["failover_s"] for one in group if one["failover_s"]), default=None),
            }
            for name, group in groups.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
