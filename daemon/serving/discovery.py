"""The stage that discovers the vLLM replicas, by reading a DNS name or a file at each step.

The promotion stage gives a new replica the live generation within `serving.reconcile_interval_s`. Until then the
replica answers 503 under the alias and at `/erratad/v1/ready`, so load balancers send it no requests.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from connectors.vllm import VllmServer
from daemon.errors import ServingError
from daemon.runtime.stage import Life, Step

CLOSE_AFTER_S = 300.0
"""The client of a removed replica is closed after this time, because another thread may still use it."""


def replicas(source: str) -> tuple[str, ...]:
    """Sorted base URLs of all replicas in `dns://host:port` or `file:///path`.

    Raises:
        ServingError: when the source is unreadable or empty. An empty result would let a swap miss running servers.
    """
    parts = urlsplit(source)
    found = _addresses(parts.hostname or "", parts.port or 80) if parts.scheme == "dns" else _listed(Path(parts.path))
    if not found:
        raise ServingError(f"{source} names no server")
    return tuple(sorted(found))


def source_problem(source: str) -> str | None:
    """Why the text is not a valid source, or None if it is."""
    try:
        parts = urlsplit(source)
        good = bool(parts.port and parts.hostname) if parts.scheme == "dns" else parts.path.startswith("/")
    except ValueError:
        good = False
    if not good or parts.scheme not in {"dns", "file"} or (parts.scheme == "file" and parts.netloc):
        return f"{source!r} is no source of servers; write dns://host:port or file:///path"
    return None


def _addresses(host: str, port: int) -> set[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise ServingError(f"{host} cannot be resolved: {exc}") from exc
    hosts = {str(address[0]) for *_, address in found}
    return {f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host in hosts}


def _listed(path: Path) -> set[str]:
    """One URL or host:port per line, or Prometheus' file_sd JSON: [{"targets": ["host:port"]}]."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ServingError(f"{path} cannot be read: {exc}") from exc
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    targets = _file_sd(path, text) if path.suffix == ".json" else [line for line in lines if line]
    return {_url(path, target) for target in targets}


def _file_sd(path: Path, text: str) -> list[str]:
    try:
        return [str(target) for group in json.loads(text) for target in group["targets"]]
    except (ValueError, TypeError, KeyError) as exc:
        raise ServingError(f'{path} is not a list of {{"targets": ["host:port"]}}: {exc!r}') from exc


def _url(path: Path, target: str) -> str:
    url = target.rstrip("/") if "://" in target else f"http://{target}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ServingError(f"{path} names {target!r}, which is neither a URL nor host:port")
    return url


class DiscoveryStage:
    """Publishes the servers of `source` when they change. An unreadable source changes nothing."""

    name = "serving"
    always_on: Literal[True] = True

    def __init__(
        self,
        *,
        source: str,
        interval_s: float,
        connect: Callable[[str], VllmServer],
        publish: Callable[[Sequence[VllmServer]], None],
    ) -> None:
        self.idle_s = interval_s
        self._source = source
        self._connect = connect
        self._publish = publish
        self._servers: dict[str, VllmServer] = {}
        self._left: list[tuple[float, VllmServer]] = []

    def step(self, _life: Life) -> Step:
        self._close_left(time.monotonic() - CLOSE_AFTER_S)
        try:
            urls = replicas(self._source)
        except ServingError as exc:
            return Step(sentence=f"{len(self._servers)} vLLM servers as known before: {exc}")
        if set(urls) != set(self._servers):
            self._change(urls)
        return Step(sentence=f"{len(urls)} vLLM servers by {self._source}: {', '.join(urls)}")

    def close(self) -> None:
        """Close removed replicas; call it after the last step. The fleet closes the current ones."""
        self._close_left(time.monotonic())

    def _change(self, urls: Sequence[str]) -> None:
        known = self._servers
        self._servers = {url: known.get(url) or self._connect(url) for url in urls}
        self._publish(list(self._servers.values()))
        self._left += [(time.monotonic(), server) for url, server in known.items() if url not in self._servers]

    def _close_left(self, before: float) -> None:
        for left_at, server in self._left:
            if left_at <= before:
                server.close()
        self._left = [(left_at, server) for left_at, server in self._left if left_at > before]
