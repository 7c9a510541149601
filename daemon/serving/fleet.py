"""The fleet of vLLM servers.

All other parts use `Fleet`. In mode `attached` its servers are the configured replicas. In mode `managed` the stage
`ManagedServer` starts one server, or adopts the server of an earlier daemon, and keeps it alive. Only
`daemon.promotion.stage` decides on the live generation.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from connectors.adapter_store import AdapterStoreError
from connectors.chat import EndpointError
from connectors.vllm import READY_TIMEOUT_S, VllmServer
from connectors.vllm_wire import ServerState
from daemon.chat.preparation import Preparation
from daemon.errors import AdapterInvalidError, ChatDifferenceError, ServingError
from daemon.records import BASE_GENERATION, Adapter
from daemon.serving.asking import Asking
from daemon.serving.limit import AdaptiveLimit
from daemon.serving.publisher import Publisher

READY_MEMO_S = 3.0
"""That a server is ready is cached for this long, so that most requests need no extra look at it."""
UNREADY_MEMO_S = 1.0
"""And for this long that it is not."""
ENGINE_MEMO_S = 5.0
"""A server that goes on telling its state is asked this rarely whether its engine lives: a dead one ends the server."""

Verify = Callable[[Adapter], None]
"""Checks that an adapter's folder may be loaded; raises AdapterInvalidError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What a look at a server found, and when (monotonic). `engine_at`: the last sign of its engine."""

    at: float
    engine_at: float
    found: ServerState | EndpointError

    @property
    def recent(self) -> bool:
        memo_s = READY_MEMO_S if isinstance(self.found, ServerState) else UNREADY_MEMO_S
        return time.monotonic() - self.at <= memo_s


class Fleet:
    """The vLLM servers. Thread-safe. `preparation` is what their clients do to messages and answers.

    `limit`: how many questions all stages may ask them at a time; None: a fixed number.
    """

    def __init__(
        self,
        servers: Sequence[VllmServer] = (),
        *,
        verify: Verify,
        preparation: Preparation | None = None,
        limit: AdaptiveLimit | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        self.asking = Asking(lambda: self.servers, limit=limit)
        self.preparation = preparation or Preparation()
        self._servers = tuple(servers)
        self._verify = verify
        self._publisher = publisher
        self._turn = itertools.count()
        self._looks: dict[VllmServer, _Look] = {}
        self._differences: Mapping[VllmServer, str | None] = {}

    @property
    def servers(self) -> tuple[VllmServer, ...]:
        return self._servers

    def replace(self, servers: Sequence[VllmServer]) -> None:
        self._servers = tuple(servers)
        self._looks = {}

    def close(self) -> None:
        """Close the connections. Call it after the last use of the servers."""
        for server in self._servers:
            server.close()

    def any(self) -> VllmServer:
        """A ready server, round-robin.

        Raises:
            ServingError: when none is ready.
        """
        servers = self._servers
        first = next(self._turn)
        for offset in range(len(servers)):
            server = servers[(first + offset) % len(servers)]
            if self._ready(server):
                return server
        raise ServingError(f"none of {len(servers)} vLLM servers is ready; `erratad status` shows why")

    def look(self, server: VllmServer) -> ServerState:
        """The state of a ready server, now. All stages know then that it is ready.

        Raises:
            EndpointError: why it is not ready. A server that hangs counts as not ready after 5 s.
        """
        now, before = time.monotonic(), self._looks.get(server)
        engine_at = -math.inf if before is None else before.engine_at
        found: ServerState | EndpointError
        try:
            if now - engine_at >= ENGINE_MEMO_S:
                server.check_engine()
                engine_at = now
            found = server.state(timeout_s=READY_TIMEOUT_S)
        except EndpointError as exc:
            found, engine_at = exc, -math.inf
        self._looks[server] = _Look(at=now, engine_at=engine_at, found=found)
        if isinstance(found, EndpointError):
            raise found
        return found

    def compared(self, differences: Mapping[VllmServer, str | None]) -> None:
        """Store the self-test's result of each ready server: the difference from the trainer, or None."""
        self._differences = differences

    def check_chat(self) -> None:
        """Check that the ready servers read conversations as the trainer does. Called before anything is trained.

        Raises:
            ChatDifferenceError: a server reads them otherwise.
            ServingError: no ready server has been compared since the daemon started.
        """
        if not self._differences:
            raise ServingError("no ready vLLM server has been compared with the trainer yet")
        for difference in self._differences.values():
            if difference is not None:
                raise ChatDifferenceError(difference)

    def verify(self, adapter: Adapter) -> None:
        """Check that an adapter's folder may be loaded. The base model is always valid.

        Raises:
            AdapterInvalidError: names the file and the reason.
        """
        if adapter.generation == BASE_GENERATION:
            return
        if adapter.path is None:
            raise AdapterInvalidError(f"{adapter.name} has no folder: its training did not end")
        self._verify(adapter)

    def ensure_loaded(self, adapter: Adapter, *, on: VllmServer | None = None) -> None:
        """Load an adapter on one server, or on all. If one of them has not loaded it, the folder is verified first.

        vLLM 0.32 loads broken weights without an error, and NaN in one adapter corrupts all answers.

        Raises:
            AdapterInvalidError: when the folder must not be loaded.
            EndpointError: when a server refuses or does not answer.
        """
        if adapter.generation == BASE_GENERATION:
            return
        states = {server: server.state() for server in (self._servers if on is None else (on,))}
        if any(adapter.name not in state.adapters for state in states.values()):
            self.verify(adapter)
        folder = Path(adapter.path or "")
        for server, state in states.items():
            if self._publisher is None:
                server.load(adapter.name, folder)
            else:
                _have_pulled(server, state, self._publisher, adapter.name, folder)

    def unpublish(self, name: str) -> None:
        """Delete an adapter from the store that the servers pull from, if there is one.

        Raises:
            ServingError: the store cannot be reached.
        """
        if self._publisher is not None:
            try:
                self._publisher.remove(name)
            except AdapterStoreError as exc:
                raise ServingError(f"{name} cannot be deleted from the store: {exc}") from exc

    def _ready(self, server: VllmServer) -> bool:
        look = self._looks.get(server)
        if look is not None and look.recent:
            return isinstance(look.found, ServerState)
        try:
            self.look(server)
        except EndpointError:
            return False
        return True


def _have_pulled(server: VllmServer, state: ServerState, publisher: Publisher, name: str, folder: Path) -> None:
    if (why := _cannot_pull(state, publisher.url)) is not None:
        raise EndpointError(f"{server.url} {why}", transient=True)
    try:
        server.load_stored(name, publisher.publish(name, folder))
    except AdapterStoreError as exc:
        raise EndpointError(f"{name} cannot be published: {exc}", transient=True) from exc
    except EndpointError as exc:
        if exc.status != HTTPStatus.SERVICE_UNAVAILABLE:  # the download goes on
            publisher.forget(name)
        raise


def _cannot_pull(state: ServerState, url: str) -> str | None:
    if state.pulls_from == url:
        return None
    if state.pulls_from is None:
        return "runs the plugin of an older erratad, which cannot pull adapters; install this version there"
    pulls = f"pulls adapters from {state.pulls_from}" if state.pulls_from else "pulls no adapters"
    return f"{pulls}: set ERRATAD_ADAPTER_STORE={url} there (serving.adapter_store.url) and restart it"
