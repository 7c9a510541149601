"""What the servers remember of completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from connectors.chat import EndpointError
from connectors.vllm_wire import Exchange
from daemon.serving.fleet import Fleet

log = structlog.get_logger(__name__)


def remembered(fleet: Fleet, ids: Sequence[str]) -> Mapping[str, Sequence[Exchange]]:
    """By completion id. A server that does not answer remembers nothing."""
    found: dict[str, list[Exchange]] = {}
    for server in fleet.servers if ids else ():
        try:
            for completion_id, exchanges in server.exchanges(ids).items():
                found.setdefault(completion_id, []).extend(exchanges)
        except EndpointError as exc:
            log.warning("exchanges not read", server=server.url, reason=str(exc))
    return found
