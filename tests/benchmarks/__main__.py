"""`make bench`: every measurement as a ratio to a peer in the same run; results go to tests/benchmarks/results/."""

from __future__ import annotations

import json

from tests.benchmarks.intake import measure
from tests.benchmarks.report import keep


def main() -> None:
    print(json.dumps(keep("intake", command="make bench", figures={"intake": measure()})))


if __name__ == "__main__":
    main()
