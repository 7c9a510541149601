"""A network of its own: a bridge, a network namespace per daemon, and addresses on the bridge for what they share."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

PREFIX = "10.214.77"
HERE, BROKER, DATABASE = f"{PREFIX}.1", f"{PREFIX}.1", f"{PREFIX}.10"
REPLICAS = (f"{PREFIX}.11", f"{PREFIX}.12")


class NoNetwork(Exception):  # noqa: N818 - a lack of this machine, not a fault
    """This machine lets nobody make a network namespace."""


@dataclass(frozen=True)
class Network:
    """The bridge, and the namespaces of the daemons. A partition loses packets; it refuses none."""

    bridge: str
    namespaces: tuple[str, ...]

    def within(self, number: int) -> list[str]:
        """The start of a command that runs in the namespace of a daemon."""
        return [*_root(), "ip", "netns", "exec", self.namespaces[number]]

    @contextmanager
    def without_daemon(self, number: int) -> Iterator[None]:
        """A daemon reaches nothing."""
        link = f"{self.bridge}d{number}"
        _ip(f"link set {link} down")
        try:
            yield
        finally:
            _ip(f"link set {link} up")

    @contextmanager
    def without_address(self, address: str) -> Iterator[None]:
        """Nobody reaches an address, and it reaches nobody."""
        _ip(f"address del {address}/24 dev {self.bridge}")
        try:
            yield
        finally:
            _ip(f"address add {address}/24 dev {self.bridge}")


@contextmanager
def network(daemons: int) -> Iterator[Network]:
    """Raises NoNetwork where this machine has no right to it."""
    if shutil.which("ip") is None:
        raise NoNetwork("the command ip (package iproute2) is missing")
    mine = f"er{os.getpid()}"
    made = Network(bridge=mine, namespaces=tuple(f"{mine}-{number}" for number in range(daemons)))
    added = subprocess.run(
        [*_root(), "ip", "link", "add", mine, "type", "bridge"], capture_output=True, text=True, check=False
    )
    if added.returncode != 0:
        raise NoNetwork(f"this machine lets nobody make a bridge: {added.stderr.strip()}")
    try:
        for address in (HERE, DATABASE, *REPLICAS):
            _ip(f"address add {address}/24 dev {mine}")
        _ip(f"link set {mine} up")
        for number, namespace in enumerate(made.namespaces):
            _ip(f"netns add {namespace}")
            _ip(f"link add {mine}d{number} type veth peer name cable netns {namespace}")
            _ip(f"link set {mine}d{number} master {mine} up")
            _ip(f"-n {namespace} address add {PREFIX}.{20 + number}/24 dev cable")
            for link in ("cable", "lo"):
                _ip(f"-n {namespace} link set {link} up")
        yield made
    finally:
        for namespace in made.namespaces:
            subprocess.run([*_root(), "ip", "netns", "delete", namespace], check=False, capture_output=True)
        _ip(f"link delete {mine}")


def _ip(arguments: str) -> None:
    subprocess.run([*_root(), "ip", *arguments.split()], check=True)


def _root() -> Sequence[str]:
    return () if os.geteuid() == 0 else ("sudo", "-n")
