"""What the shell completes: states, stages, and the ids of reports and generations of the target.

A shell waits for the answer at each press of a key. So a server has a second, and every error gives no proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

import typer

from daemon.cli.backend import Backend
from daemon.cli.connection import COMPLETION_TIMEOUT_S, Target
from daemon.operations.stages import PAUSABLE
from daemon.report_filter import ReportFilter

if TYPE_CHECKING:
    from daemon.store.archive_tables import ArchiveFile

MAX_PROPOSALS = 100
_GENERATIONS = {
    "promote": {"candidate", "shadow", "canary", "retired"},
    "reject": {"candidate", "shadow", "canary"},
    "rollback": {"retired"},
    "approve": {"rolled-back"},
}
"""The states that a command can act on. Other commands take every generation."""
Proposals: TypeAlias = list[tuple[str, str]]
"""Each with an explanation, which some shells show."""


def stages(incomplete: str) -> list[str]:
    return _begun((*PAUSABLE, "all"), incomplete)


def report_states(incomplete: str) -> list[str]:
    from daemon.records import ReportState

    return _begun(ReportState, incomplete)


def adapter_states(incomplete: str) -> list[str]:
    from daemon.records import AdapterState

    return _begun(AdapterState, incomplete)


def reports(ctx: typer.Context, incomplete: str) -> Proposals:
    def read(backend: Backend) -> Proposals:
        found = backend.reports(ReportFilter(search=incomplete or None), limit=MAX_PROPOSALS)
        return [(row["id"], row["state"]) for row in found]

    return _of_target(ctx, read, incomplete)


def generations(ctx: typer.Context, incomplete: str) -> Proposals:
    wanted = _GENERATIONS.get(ctx.info_name or "")

    def read(backend: Backend) -> Proposals:
        found = backend.adapters(limit=MAX_PROPOSALS)
        return [(str(row["generation"]), row["state"]) for row in found if wanted is None or row["state"] in wanted]

    return _of_target(ctx, read, incomplete)


def runs(ctx: typer.Context, incomplete: str) -> Proposals:
    def read(backend: Backend) -> Proposals:
        return [(str(row["id"]), row["state"]) for row in backend.runs(limit=MAX_PROPOSALS)]

    return _of_target(ctx, read, incomplete)


def archived(ctx: typer.Context, incomplete: str) -> Proposals:
    return [(file.name, f"{file.reports} reports") for file in _files(ctx) if file.name.startswith(incomplete)]


def months(ctx: typer.Context, incomplete: str) -> list[str]:
    return _begun(sorted({file.month for file in _files(ctx)}), incomplete)


def _files(ctx: typer.Context) -> list[ArchiveFile]:
    from daemon.cli.options import opened

    try:
        with opened(Target(ctx).config()) as store:
            return store.archive.files()
    except Exception:  # noqa: BLE001 - as below
        return []


def _of_target(ctx: typer.Context, read: Callable[[Backend], Proposals], incomplete: str) -> Proposals:
    try:
        with Target(ctx).backend(timeout_s=COMPLETION_TIMEOUT_S) as backend:
            return [one for one in read(backend) if one[0].startswith(incomplete)]
    except Exception:  # noqa: BLE001 - a message would appear in the middle of the line that is typed
        return []


def _begun(names: Iterable[str], incomplete: str) -> list[str]:
    return [str(name) for name in names if name.startswith(incomplete)]
