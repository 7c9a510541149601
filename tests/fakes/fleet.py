"""Fleets of stand-ins for vLLM servers."""

from __future__ import annotations

from typing import Any

from daemon.errors import ServingError
from daemon.serving.fleet import Fleet


def fleet_of(*servers: Any) -> Fleet:
    """A real fleet, in which every adapter's folder may be loaded."""
    return Fleet(servers, verify=lambda _adapter: None)


class OneServer(Fleet):
    """A fleet of one server that is not asked whether it is ready; None: no server is."""

    def __init__(self, server: Any) -> None:
        super().__init__(() if server is None else (server,), verify=lambda _adapter: None)

    def any(self) -> Any:
        if not self.servers:
            raise ServingError("none of 1 vLLM servers is ready")
        return self.servers[0]
