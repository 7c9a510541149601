"""`make bench-quality`: the recipes side by side; writes results/quality.json and its section of RESULTS.md.

The options are those of `erratad bench quality`. Hours long; an interrupted measurement goes on where it was.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.report import keep

PAGE = Path(__file__).parents[2] / "RESULTS.md"
SECTION = re.compile(r"(?<=<!-- quality -->\n).*?(?=<!-- end of quality -->)", re.DOTALL)


def main() -> None:
    command = [sys.executable, "-m", "daemon", "bench", "quality", "--json", *sys.argv[1:]]
    measured = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    asked_for = " ".join(sys.argv[1:])
    result = keep("quality", command=f"erratad bench quality {asked_for}", figures=json.loads(measured.stdout))
    section = f"{result['date']}, {result['machine']}: `{result['command']}`\n\n{result['markdown']}\n"
    PAGE.write_text(SECTION.sub(lambda _: section, PAGE.read_text()))


if __name__ == "__main__":
    main()
