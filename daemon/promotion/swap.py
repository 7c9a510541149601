"""Changing the live generation on all servers at once: load and probe, flip or undo, bring back, clean up.

The store decides which generation is live. A crash between any two calls leaves servers that differ from the store;
`Reconciler` repairs them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import structlog

from connectors.chat import EndpointError
from connectors.vllm import DeposedError, VllmServer
from connectors.vllm_wire import INTERFACE, ServerState, Trial
from daemon import metrics
from daemon.adapter_names import trained_name
from daemon.config.serving import ServingConfig
from daemon.errors import AdapterInvalidError, PromotionError, ServingError
from daemon.records import BASE_GENERATION, Adapter, AdapterState, RunState, TrialRun
from daemon.serving.fleet import Fleet
from daemon.store import Store

log = structlog.get_logger(__name__)

MEASURED_STATES = frozenset({RunState.EVALUATING, RunState.PROMOTING})
"""Run states in which the candidate is loaded and must stay loaded."""
OLDER_PLUGIN = (
    "runs the plugin of an older erratad, which leaves routes such as /tokenize open without a key; install this "
    "version there and restart the server"
)


def load_and_probe(fleet: Fleet, adapter: Adapter, server: VllmServer) -> None:
    """Load an adapter on a server and probe it: it must answer, compute finite numbers, and differ from the base model.

    Raises:
        AdapterInvalidError, PromotionError: This adapter can never go live.
        EndpointError: The server does not answer; a later attempt may succeed.
    """
    try:
        fleet.ensure_loaded(adapter, on=server)
    except EndpointError as exc:
        if exc.transient:
            raise
        raise PromotionError(f"{server.url} refuses to load {adapter.name}: {exc}") from exc
    probe = server.probe(adapter.name)
    if not probe.finite:
        raise PromotionError(f"{adapter.name} on {server.url} computes NaN or infinity; train a new one")
    if adapter.generation != BASE_GENERATION and not probe.differs_from_base:
        raise PromotionError(f"{adapter.name} on {server.url} answers exactly as the base model; train a new one")
    if not probe.ok:
        raise PromotionError(f"{adapter.name} on {server.url} fails its probe (it answered {probe.text[:80]!r})")


@contextmanager
def flipped(servers: Sequence[VllmServer], *, target: Adapter, live: Adapter) -> Iterator[None]:
    """Flip the alias on every server. If a flip or the body fails, flip every server back to `live`.

    Raises:
        AliasConflict: A server has another live generation than `live`.
    """
    touched: list[VllmServer] = []
    try:
        for server in servers:
            touched.append(server)  # before the call: the answer to a successful flip may get lost
            server.set_live(target.name, expected=live.name)
        yield
    except Exception:
        for server in reversed(touched):
            _undo_flip(server, target=target, live=live)
        raise


def _undo_flip(server: VllmServer, *, target: Adapter, live: Adapter) -> None:
    """Undo a flip. If the flip never arrived, the compare-and-swap refuses, which is correct too."""
    try:
        server.set_live(live.name, expected=target.name)
    except (EndpointError, DeposedError) as exc:
        log.warning("flip_not_undone", server=server.url, adapter=target.name, error=str(exc), next="reconcile")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    """The servers by the live generation. `behind`: one sentence per server that does not serve it.

    `older`: one sentence per server whose plugin is of an older erratad.
    """

    serving: tuple[VllmServer, ...]
    behind: tuple[str, ...]
    older: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return bool(self.serving) and not self.behind

    def require(self, live: Adapter) -> None:
        """Raise ServingError unless every server serves the live generation."""
        if not self.complete:
            behind = "; ".join(self.behind) or "no server is known yet"
            raise ServingError(f"not every server serves {live.name}: {behind}")


class Reconciler:
    """Brings each server to the live generation, and unloads adapters that are no longer needed."""

    def __init__(self, *, serving: ServingConfig, store: Store, fleet: Fleet) -> None:
        self._serving = serving
        self._store = store
        self._fleet = fleet
        self._draining: dict[tuple[str, str, str], float] = {}

    def repair(self, live: Adapter) -> FleetState:
        """Load and flip on each ready server that does not serve the live generation; then clean up."""
        serving: list[VllmServer] = []
        behind: list[str] = []
        older: list[str] = []
        not_ready = 0
        for server in self._fleet.servers:
            try:
                state = self._fleet.look(server)
            except EndpointError as exc:
                behind.append(f"{server.url} is not ready ({exc})")
                not_ready += 1
                continue
            try:
                older += [f"{server.url} {OLDER_PLUGIN}"] if state.interface < INTERFACE else []
                if not _serves(state, live):
                    self._bring_back(server, state, live)
                self._align_trial(server, state)
                self._clean(server, state, live)
            except (EndpointError, AdapterInvalidError, PromotionError) as exc:
                behind.append(f"{server.url}: {exc}")
            else:
                serving.append(server)
        metrics.SERVERS.labels(state="serving").set(len(serving))
        metrics.SERVERS.labels(state="behind").set(len(behind) - not_ready)
        metrics.SERVERS.labels(state="not_ready").set(not_ready)
        return FleetState(serving=tuple(serving), behind=tuple(behind), older=tuple(older))

    def _bring_back(self, server: VllmServer, state: ServerState, live: Adapter) -> None:
        if live.name not in state.adapters:
            load_and_probe(self._fleet, live, server)
        server.set_live(live.name, expected=state.live)
        metrics.RECONCILE_REPAIRS.inc()
        log.warning("server_brought_back", server=server.url, was=state.live, live=live.name)

    def _align_trial(self, server: VllmServer, state: ServerState) -> None:
        """Start or stop the trial as the store says, so that replicas agree and a restarted one takes part again."""
        current = self._store.trials.current()
        wanted = None if current is None else trial_of(current)
        if state.trial == wanted:
            return
        if current is not None and current.name not in state.adapters:
            load_and_probe(self._fleet, self._store.adapters.get(current.generation), server)
        server.try_out(wanted)
        log.info("trial_aligned", server=server.url, was=state.trial, now=wanted)

    def _clean(self, server: VllmServer, state: ServerState, live: Adapter) -> None:
        """Unload drained adapters that are neither live, nor the previous generation, nor a candidate."""
        loaded = set(state.adapters) - {live.name}
        for name in sorted(loaded - self._needed(loaded) if loaded else ()):
            key = (server.url, state.epoch, name)
            if server.unload(name):
                self._draining.pop(key, None)
                log.info("adapter_unloaded", server=server.url, adapter=name)
                continue
            since = self._draining.setdefault(key, time.monotonic())
            if time.monotonic() - since > self._serving.drain_timeout_s:
                self._draining[key] = time.monotonic()
                log.warning(
                    "adapter_not_drained",
                    server=server.url,
                    adapter=name,
                    requests=state.adapters[name],
                    waited_s=self._serving.drain_timeout_s,
                    next="it keeps its slot until these requests end; look for clients that hang",
                )

    def _needed(self, loaded: Collection[str]) -> set[str]:
        """Names that must stay loaded. Read it after the server: a candidate is loaded only in `MEASURED_STATES`."""
        run = self._store.runs.active()
        previous = self._store.adapters.previous() if self._serving.keep_previous else None
        needed = {self._store.adapters.live().name}
        if run is not None and run.state in MEASURED_STATES:
            candidate = self._store.adapters.get(run.generation).name
            weaker = run.state == RunState.EVALUATING
            needed |= {name for name in loaded if name == candidate or (weaker and trained_name(name) == candidate)}
        if previous is not None:
            needed.add(previous.name)
        return needed


def trial_of(current: TrialRun) -> Trial:
    mode: Literal["canary", "shadow"] = "canary" if current.mode == AdapterState.CANARY else "shadow"
    return Trial(mode=mode, name=current.name, share=current.share, concurrency=current.concurrency)


def _serves(state: ServerState, live: Adapter) -> bool:
    return state.live == live.name and (live.generation == BASE_GENERATION or live.name in state.adapters)
