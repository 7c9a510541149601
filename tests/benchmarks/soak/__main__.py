"""`make bench-soak`: does a daemon keep its size through hundreds of runs, with traffic, outages and restarts?

A run goes the whole way: reports over Kafka and HTTP, lessons, dataset, the training of a tiny model, the gate, and a
swap or a rejection. The model server is the fake that passes the contract of the real one. After each run everything
that could grow is looked at. The slopes are those of the second half, in which the daemon is not restarted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from daemon.records import ACTIVE_RUN_STATES, Run, RunState
from daemon.store import Store, schema
from tests.benchmarks.report import keep
from tests.benchmarks.soak import growth, outages
from tests.benchmarks.soak.people import Chats, Complaints
from tests.benchmarks.soak.samples import cpu_seconds, sample
from tests.benchmarks.soak.stand import Stand, standing
from tests.benchmarks.swap import MODEL
from tests.benchmarks.traffic import percentile

RUN_S = 600.0
"""A run that takes longer is stuck."""
POLL_S = 0.3


@dataclass(slots=True, kw_only=True)
class Soak:
    """What was seen. `seconds` and `cpu_s` are those of the runs without an outage."""

    ends: Counter[RunState] = field(default_factory=Counter)
    outages: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, float]] = field(default_factory=list)
    restarted: int = 0
    """Samples taken before the daemon was killed last."""
    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def live_through(
    stand: Stand, complaints: Complaints, chats: Chats, *, runs: int, reports: int, minutes: float
) -> Soak:
    """`runs` runs, or as many as begin within `minutes`."""
    soak, plan, until = Soak(), outages.plan(runs), time.monotonic() + 60 * minutes
    last: Run | None = None
    for number in range(runs):
        if time.monotonic() > until:
            break
        begun, cpu = time.monotonic(), cpu_seconds(stand)
        complaints.send(number, count=reports)
        outage = plan.get(number)
        if outage is not None:
            outage(stand, chats)
            soak.outages[outage.__name__] += 1
        if outage is outages.daemon:
            soak.restarted = number
        last = _next_end(stand, after=last)
        soak.ends[last.state] += 1
        if outage is None:
            soak.seconds.append(time.monotonic() - begun)
            soak.cpu_s.append(cpu_seconds(stand) - cpu)
        soak.samples.append(sample(stand))
        stand.fake.forget()
        said = f" after the outage of the {outage.__name__}" if outage is not None else ""
        print(f"run {last.id}: {last.state}{said}, {soak.samples[-1]['memory_mib']:.0f} MiB", file=sys.stderr)
    return soak


def _next_end(stand: Stand, *, after: Run | None) -> Run:
    """The newest run, when one after `after` has ended."""
    found: list[Run] = []

    def is_over() -> bool:
        found[:] = stand.store.runs.find(limit=1)
        return bool(found) and found[0] != after and found[0].state not in ACTIVE_RUN_STATES

    stand.daemon.until(is_over, timeout_s=RUN_S, poll_s=POLL_S)
    return found[0]


def lost_and_doubled(store: Store, sent: set[str]) -> dict[str, int]:
    """Reports without a row; and rows of a report, or promotions of a generation, beyond the first."""
    with store.engine.connect() as connection:
        stored = Counter(connection.execute(select(schema.reports.c.sent_id)).scalars())
        promoted = select(schema.audit.c.subject).where(schema.audit.c.action == "promoted")
        promotions = Counter(connection.execute(promoted).scalars())
    doubled = sum(count - 1 for counts in (stored, promotions) for count in counts.values())
    return {"lost": len(sent - set(stored)), "doubled": doubled}


def measured(*, model: Path, runs: int, reports: int, minutes: float, backend: str, forked: bool) -> dict[str, Any]:
    """`model`: a real one, for its tokenizer."""
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as name,
        standing(Path(name), model, backend=backend, forked=forked, lessons=reports) as stand,
    ):
        complaints, chats = Complaints(stand, seed=0), Chats(stand)
        with chats.going_on():
            soak = live_through(stand, complaints, chats, runs=runs, reports=reports, minutes=minutes)
        found = lost_and_doubled(stand.store, complaints.sent)
        stopped = stand.daemon.stop()
    slopes = growth.judged(soak.samples, reports=reports, restarted=soak.restarted)
    return {
        "runs": len(soak.samples),
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "backend": backend,
        "trainers": "forked" if forked else "started",
        "ends": dict(soak.ends),
        "outages": dict(soak.outages),
        "reports": len(complaints.sent),
        "chats": {"asked": chats.asked, "failed": chats.failed},
        **found,
        "exit_code": stopped,
        "seconds_per_run_p50": _median(soak.seconds),
        "cpu_seconds_per_run_p50": _median(soak.cpu_s),
        "slopes": slopes,
        "worst": growth.worst(slopes),
        "samples": {figure: [round(one[figure], 2) for one in soak.samples] for figure in soak.samples[0]},
    }


def _median(values: Sequence[float]) -> float | None:
    """None if every run had an outage."""
    return round(percentile(values, 0.5), 1) if values else None


def is_sound(result: dict[str, Any]) -> bool:
    """Whether nothing was lost, doubled or failed, and no bound is broken."""
    broken = [figure for figure, one in result["slopes"].items() if one["verdict"] == growth.Verdict.BROKEN]
    wrong = (result["lost"], result["doubled"], result["chats"]["failed"], result["exit_code"])
    return not broken and not any(wrong) and RunState.FAILED not in result["ends"]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make bench-soak", description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--reports", type=int, default=6, help="new reports for each run")
    parser.add_argument("--minutes", type=float, default=60.0, help="after this time no further run begins")
    parser.add_argument("--backend", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--started", action="store_true", help="start each trainer anew, in place of forking it")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that every process is ended
    result = measured(
        model=MODEL,
        runs=given.runs,
        reports=given.reports,
        minutes=given.minutes,
        backend=given.backend,
        forked=not given.started,
    )
    command = f'make bench-soak SOAK="{" ".join(arguments)}"'
    kept = keep(f"soak-{given.backend}", command=command, figures=result)
    print(json.dumps({name: value for name, value in kept.items() if name != "samples"}))
    return 0 if is_sound(result) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
