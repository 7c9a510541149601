"""Stage "retention": removes old adapter and run folders from the disk. Their rows, and the live adapter, stay.
An adapter is also removed from the store that servers pull from.

It also deletes old reports that no run used and answers of old runs (`daemon.store.unused`), and heartbeats of daemons
that ended.

The stage first marks an adapter's row and then removes its folder. After a crash between the two, the next step removes
the marked folder. A rollback to a marked generation is refused. The stage removes no folder that a server may have
loaded: vLLM 0.32 dies if such a folder is missing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

import structlog

from connectors.chat import EndpointError
from daemon.adapter_names import trained_name
from daemon.config import StorageConfig
from daemon.errors import ServingError
from daemon.records import Adapter, AdapterState, RunState, utcnow
from daemon.runtime.stage import Life, Step
from daemon.serving.fleet import Fleet
from daemon.store import Store
from daemon.store.control import HEARTBEATS_KEPT

log = structlog.get_logger(__name__)

LOOK_INTERVAL_S = 3600.0
"""Between two looks for rows that can go."""
ENDED = (
    frozenset({AdapterState.RETIRED}),
    frozenset({AdapterState.REJECTED, AdapterState.FAILED, AdapterState.ROLLED_BACK}),
)
"""Each group is counted separately, so that many failures do not displace the targets of a rollback."""


class RetentionStage:
    """Keeps the newest `keep_adapters` of each group in `ENDED`, run folders for `keep_runs_days`, and used reports."""

    name = "retention"
    idle_s = 60.0

    def __init__(
        self, *, store: Store, fleet: Fleet, config: StorageConfig, adapters_dir: Path, runs_dir: Path
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._config = config
        self._adapters_dir = adapters_dir.absolute()
        self._runs_dir = runs_dir.absolute()
        self._rows_looked_at = -LOOK_INTERVAL_S

    def step(self, life: Life) -> Step:
        if reports := self._remove_rows():
            return Step(sentence=f"removed {reports} reports that no run used", worked=True)
        try:
            held = {name for server in self._fleet.servers for name in server.state().adapters}
        except EndpointError as exc:
            return Step(sentence=f"nothing is removed while a server cannot be asked what it holds: {exc}")
        removed = 0
        for adapter in self._old_adapters():
            if life.stopping:
                break
            removed += self._remove_adapter(adapter, held, f"storage.keep_adapters is {self._config.keep_adapters}")
        for adapter in self._store.erasures.withdrawn():
            removed += self._remove_adapter(adapter, held, "it was trained on a report that is erased")
        removed += self._remove_marked() + self._remove_unchosen(held) + self._remove_runs(life)
        if removed:
            return Step(sentence=f"removed {removed} folders")
        return Step(sentence=f"keeps {self._config.keep_adapters} adapters of each kind and {self._days()} of runs")

    def _old_adapters(self) -> list[Adapter]:
        previous = self._store.adapters.previous()
        kept = None if previous is None else previous.generation
        adapters = self._store.adapters.with_files()
        old = [
            [adapter for adapter in adapters if adapter.state in group][self._config.keep_adapters :] for group in ENDED
        ]
        return [adapter for group in old for adapter in group if adapter.generation != kept]

    def _remove_adapter(self, adapter: Adapter, held: Collection[str], why: str) -> int:
        """Only if no server has it loaded, and if it is in a state that allows it."""
        if adapter.name in held or not self._store.adapters.files_removed(adapter.generation, why):
            return 0
        return self._remove_everywhere(adapter.name, Path(adapter.path or ""))

    def _remove_marked(self) -> int:
        """Remove the folders that a crash left between the mark and the removal."""
        marked = self._store.adapters.without_files()
        return sum(self._remove_everywhere(adapter.name, Path(adapter.path or "")) for adapter in marked)

    def _remove_unchosen(self, held: Collection[str]) -> int:
        """Remove the strengths that were not chosen: the same weights with another scale."""
        run = self._store.runs.active()
        undecided = run.generation if run is not None and run.state != RunState.PROMOTING else None
        adapters = [*self._store.adapters.with_files(), *self._store.adapters.without_files()]
        kept = {
            trained_name(adapter.name): Path(adapter.path or "").name
            for adapter in adapters
            if adapter.generation != undecided
        }
        folders = self._adapters_dir.iterdir() if kept and self._adapters_dir.is_dir() else ()
        unchosen = [one for one in folders if kept.get(trained_name(one.name), one.name) != one.name]
        return sum(self._remove_everywhere(one.name, one) for one in unchosen if one.name not in held)

    def _remove_runs(self, life: Life) -> int:
        if self._config.keep_runs_days is None:
            return 0
        before = utcnow() - timedelta(days=self._config.keep_runs_days)
        while not life.stopping and self._store.unused.forget_answers(before=before):
            pass
        folders = [Path(run.folder) for run in self._store.runs.ended(before=before)]
        return sum(self._remove(folder, self._runs_dir) for folder in folders if not life.stopping)

    def _remove_rows(self) -> int:
        """Delete a batch of unused reports; returns their number. If there are none, look again after a while."""
        if time.monotonic() - self._rows_looked_at < LOOK_INTERVAL_S:
            return 0
        if removed := self._remove_reports():
            log.info("reports_removed", reports=removed)
            return removed
        self._store.control.forget_ended(before=utcnow() - HEARTBEATS_KEPT)
        self._rows_looked_at = time.monotonic()
        return 0

    def _remove_reports(self) -> int:
        days = self._config.keep_unused_reports_days
        if days is None:
            return 0
        before = utcnow() - timedelta(days=days)
        removed = self._store.unused.remove(before=before, reason=f"no run used it for {days:g} days")
        self._store.signals.remove(before=before)
        return removed

    def _remove_everywhere(self, name: str, folder: Path) -> int:
        """From the store first: as long as the folder is there, the next step tries again."""
        if not self._is_own(folder, self._adapters_dir):
            return 0
        try:
            self._fleet.unpublish(name)
        except ServingError as exc:
            log.warning("adapter_not_unpublished", adapter=name, error=str(exc), next="it is tried again")
            return 0
        return self._remove(folder, self._adapters_dir)

    def _remove(self, folder: Path, parent: Path) -> int:
        if not self._is_own(folder, parent):
            return 0
        shutil.rmtree(folder)
        log.info("folder_removed", folder=str(folder))
        return 1

    @staticmethod
    def _is_own(folder: Path, parent: Path) -> bool:
        """Only a direct child of the daemon's own folder is removed, because the path comes from the database."""
        return folder.absolute().parent == parent and not folder.is_symlink() and folder.is_dir()

    def _days(self) -> str:
        days = self._config.keep_runs_days
        return "all" if days is None else f"{days:g} days"
