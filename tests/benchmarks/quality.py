"""`make bench-quality`: the recipes side by side; writes results/quality.json and its section of RESULTS.md.

The options are those of `erratad bench quality`. Hours long; an interrupted measurement goes on where it was.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.report import RESULTS, about_this_run

PAGE = Path(__file__).parents[2] / "RESULTS.md"
SECTION = re.compile(r"(?<=<!-- quality -->\n).*?(?=<!-- end of quality -->)", re.DOTALL)


def main() -> None:
    command = [sys.executable, "-m", "daemon", "bench", "quality", "--json", *sys.argv[1:]]
    measured = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(measured.stdout)
    result = {**about_this_run(f"make bench-quality {' '.join(sys.argv[1:])}"), **result}
    (RESULTS / "quality.json").write_text(json.dumps(result, indent=1) + "\n")
    section = f"{result['date']}, {result['machine']}: `{result['command']}`\n\n{result['markdown']}\n"
    PAGE.write_text(SECTION.sub(lambda _: section, PAGE.read_text()))


if __name__ == "__main__":
    main()
