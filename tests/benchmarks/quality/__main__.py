"""`make bench-quality`: the recipes side by side on the same mistakes, at the same token budget, over several seeds.

Writes the answers (results/quality/, a file per training), results/quality-MODEL.json and the model's section of PAGE.
Takes hours; an interrupted measurement goes on where it was, and published answers are not asked for again.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon.config import LogConfig
from daemon.errors import ConfigError, ErratadError
from daemon.runtime import log
from tests.benchmarks.quality import report, scores
from tests.benchmarks.quality.arguments import parser, plan_of
from tests.benchmarks.quality.measurement import measure, measured
from tests.benchmarks.quality.plan import ANSWERS
from tests.benchmarks.report import RESULTS, keep

PAGE = Path(__file__).parents[3] / "docs" / "measurements" / "recipes.md"
PUBLISHED = RESULTS / "quality"
FAILED, USAGE = 1, 2


def main(arguments: Sequence[str]) -> int:
    """Measure, publish and print the tables; returns the exit code."""
    given = parser(__doc__).parse_args(arguments)
    log.configure(LogConfig(level="warning", format="text"))  # to stderr: stdout is the result's
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the server is stopped, too
    try:
        plan = plan_of(given)
        with _published_answers(plan.out):
            results = measured(plan) if given.kept else measure(plan, _warn)
    except ErratadError as exc:
        _warn(str(exc))
        return USAGE if isinstance(exc, ConfigError) else FAILED
    figures = _figures(results, plan.model.name, plan.scenarios, plots=given.plots)
    _publish(figures, plan.model.name, command=f"python -m tests.benchmarks.quality {shlex.join(arguments)}")
    print(json.dumps(figures, indent=2) if given.json else figures["markdown"])
    return 0


def _figures(
    results: Sequence[Mapping[str, Any]], model: str, scenarios: Sequence[str], *, plots: Path | None
) -> dict[str, Any]:
    """The scores and the tables of them; `plots`: the folder where a plot of each scenario is drawn, too."""
    found = scores.scores(results)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for scenario in scenarios:
            report.plot(found, scenario, plots / f"quality-{model}-{scenario}.svg")
    return {"scores": report.as_json(found), "markdown": report.page(found, results)}


@contextmanager
def _published_answers(out: Path) -> Iterator[None]:
    """Answers that were published need not be asked for in `out`; new ones there are published, after an error, too."""
    _copy_new(PUBLISHED, out / ANSWERS)
    try:
        yield
    finally:
        _copy_new(out / ANSWERS, PUBLISHED)


def _copy_new(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for answers in source.glob("*.json"):
        if not (target / answers.name).exists():
            shutil.copy(answers, target)


def _publish(figures: Mapping[str, Any], model: str, *, command: str) -> None:
    """Write the figures, and the model's section of the page in the place of its last one, or at the end."""
    result = keep(f"quality-{model}", command=command, figures=figures)
    head, end = f"<!-- quality of {model} -->\n", f"<!-- end of {model} -->\n"
    said = f"{result['date']}, {result['machine']}: `{result['command']}`\n\n{result['markdown']}\n"
    before, found, rest = PAGE.read_text().partition(head)
    after = rest.partition(end)[2]
    title = "" if found else f"\n## {model}\n\n"
    PAGE.write_text(f"{before}{title}{head}{said}{end}{after}")


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
