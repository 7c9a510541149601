"""`make bench-quality`: the recipes side by side; writes results/quality.json and its section of RESULTS.md.

The options are those of `erratad bench quality`. Hours long; an interrupted measurement goes on where it was, and the
answers in results/quality/, a file per training, are not asked for again.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from daemon.bench.quality import RESULTS as ANSWERS
from tests.benchmarks.report import RESULTS, keep

PAGE = Path(__file__).parents[2] / "RESULTS.md"
SECTION = re.compile(r"(?<=<!-- quality -->\n).*?(?=<!-- end of quality -->)", re.DOTALL)
PUBLISHED = RESULTS / "quality"


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("var/bench-quality"))
    given, others = parser.parse_known_args()
    _copy_new(PUBLISHED, given.out / ANSWERS)
    command = [sys.executable, "-m", "daemon", "bench", "quality", "--json", f"--out={given.out}", *others]
    try:
        measured = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    finally:
        _copy_new(given.out / ANSWERS, PUBLISHED)
    result = keep("quality", command=f"erratad bench quality {' '.join(others)}", figures=json.loads(measured.stdout))
    section = f"{result['date']}, {result['machine']}: `{result['command']}`\n\n{result['markdown']}\n"
    PAGE.write_text(SECTION.sub(lambda _: section, PAGE.read_text()))


def _copy_new(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for answers in source.glob("*.json"):
        if not (target / answers.name).exists():
            shutil.copy(answers, target)


if __name__ == "__main__":
    main()
