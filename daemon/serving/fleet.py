"""The vLLM servers: which there are, which of them is ready, and the one that erratad runs itself.

`Fleet` is what every other part sees. In mode `attached` its servers are the configured replicas; in mode `managed` the
`ManagedServer` stage starts one server, or adopts the one that an earlier daemon left, and keeps it alive. Neither
decides which generation is live: `daemon.promotion.stage` does.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from connectors.vllm import VllmServer
from daemon.errors import AdapterInvalidError, ServingError
from daemon.records import BASE_GENERATION, Adapter

READY_MEMO_S = 1.0
"""For how long an observed readiness is believed, so that one request costs one call and not two."""

Verify = Callable[[Adapter], None]
"""Proves that an adapter's folder may be loaded; raises AdapterInvalidError."""


class Fleet:
    """The vLLM servers; safe to use from several threads."""

    def __init__(self, servers: Sequence[VllmServer] = (), *, verify: Verify) -> None:
        self._servers = tuple(servers)
        self._verify = verify
        self._turn = itertools.count()
        self._seen: dict[VllmServer, tuple[float, bool]] = {}

    @property
    def servers(self) -> tuple[VllmServer, ...]:
        return self._servers

    def replace(self, servers: Sequence[VllmServer]) -> None:
        self._servers = tuple(servers)
        self._seen = {}

    def close(self) -> None:
        """Close the connections; called when nothing uses the servers any more."""
        for server in self._servers:
            server.close()

    def any(self) -> VllmServer:
        """A ready server; they take turns.

        Raises:
            ServingError: when none is ready.
        """
        servers = self._servers
        first = next(self._turn)
        for offset in range(len(servers)):
            server = servers[(first + offset) % len(servers)]
            if self._ready(server):
                return server
        raise ServingError(f"none of {len(servers)} vLLM servers is ready; `erratad status` says what they wait for")

    def verify(self, adapter: Adapter) -> None:
        """Prove that an adapter's folder may be loaded; the base model needs no proof.

        Raises:
            AdapterInvalidError: naming the file and the reason.
        """
        if adapter.generation == BASE_GENERATION:
            return
        if adapter.path is None:
            raise AdapterInvalidError(f"{adapter.name} has no folder: its training did not end")
        self._verify(adapter)

    def ensure_loaded(self, adapter: Adapter, *, on: VllmServer | None = None) -> None:
        """Load an adapter on one server, or on all; its folder is verified first where it is not loaded yet.

        vLLM loads broken weights without a word, and NaN in one adapter poisons all answers (seen with 0.32).

        Raises:
            AdapterInvalidError: when the folder must not be loaded.
            EndpointError: when a server does not answer or refuses.
        """
        if adapter.generation == BASE_GENERATION:
            return
        servers = self._servers if on is None else (on,)
        if any(adapter.name not in server.state().adapters for server in servers):
            self.verify(adapter)
        for server in servers:
            server.load(adapter.name, Path(adapter.path or ""))

    def _ready(self, server: VllmServer) -> bool:
        seen_at, ready = self._seen.get(server, (0.0, False))
        if time.monotonic() - seen_at > READY_MEMO_S:
            ready = server.ready()
            self._seen[server] = (time.monotonic(), ready)
        return ready
