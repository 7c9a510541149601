"""Liveness (every stage makes progress or is paused) and readiness (users get answers, and reports arrive)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from connectors.chat import EndpointError
from connectors.vllm import VllmServer
from daemon.errors import ErratadError
from daemon.records import Adapter, served_name
from daemon.runtime.stage import LastSteps
from daemon.serving.fleet import Fleet
from daemon.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """`stalled`: the stages without a step for too long."""

    stalled: tuple[str, ...]

    @property
    def alive(self) -> bool:
        return not self.stalled


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """`missing`: one sentence per reason why the daemon is not ready."""

    missing: tuple[str, ...]

    @property
    def ready(self) -> bool:
        return not self.missing


class Health:
    """`intake_connected` is None without a Kafka intake: HTTP intake is ready if the store is."""

    def __init__(
        self,
        *,
        last_steps: LastSteps,
        store: Store,
        fleet: Fleet,
        base_name: str,
        max_stall_s: float,
        intake_connected: Callable[[], bool] | None = None,
    ) -> None:
        self._last_steps = last_steps
        self._store = store
        self._fleet = fleet
        self._base_name = base_name
        self._max_stall_s = max_stall_s
        self._intake_connected = intake_connected

    def live(self) -> Live:
        return Live(stalled=tuple(self._last_steps.stalled(self._max_stall_s)))

    def ready(self) -> Ready:
        missing = []
        try:
            missing += self._serving_gaps(self._store.adapters.live())
        except ErratadError as exc:
            missing.append(f"store: {exc}")
        else:
            if (error := self._last_steps.store_error) is not None:
                missing.append(f"store: {error}")
        if self._intake_connected is not None and not self._intake_connected():
            missing.append("intake: no Kafka broker is connected")
        return Ready(missing=tuple(missing))

    def _serving_gaps(self, live: Adapter) -> list[str]:
        """Empty if at least one server answers as the live generation; otherwise one reason per server."""
        gaps = [self._server_gap(server, live) for server in self._fleet.servers]
        if not gaps:
            return ["serving: no vLLM server is known yet"]
        return [] if None in gaps else [gap for gap in gaps if gap is not None]

    def _server_gap(self, server: VllmServer, live: Adapter) -> str | None:
        try:
            if not server.ready():
                return f"serving: {server.url} is not ready"
            observed = server.state().live
        except EndpointError as exc:
            return f"serving: {server.url}: {exc}"
        if observed in {live.name, served_name(live, self._base_name)}:
            return None
        return f"serving: {server.url} answers as {observed or 'nothing'}, not yet as {live.name}"
