"""`make bench`: every measurement as a ratio to a peer in the same run; results go to tests/benchmarks/results/."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.intake import measure

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "command": "make bench",
        "intake": measure(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "intake.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
