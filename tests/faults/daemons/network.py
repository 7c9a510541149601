"""A network of its own: a bridge, a network namespace per daemon, and addresses on the bridge for what they share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.fixtures import namespaces

PREFIX = "10.214.77"
HERE, BROKER, DATABASE = f"{PREFIX}.1", f"{PREFIX}.1", f"{PREFIX}.10"
REPLICAS = (f"{PREFIX}.11", f"{PREFIX}.12")


@dataclass(frozen=True)
class Network:
    """The bridge, and the namespaces of the daemons. A partition loses packets; it refuses none."""

    bridge: str
    namespaces: tuple[str, ...]

    def within(self, number: int) -> list[str]:
        """The start of a command that runs in the namespace of a daemon."""
        return namespaces.within(self.namespaces[number])

    @contextmanager
    def without_daemon(self, number: int) -> Iterator[None]:
        """A daemon reaches nothing."""
        link = f"{self.bridge}d{number}"
        namespaces.ip(f"link set {link} down")
        try:
            yield
        finally:
            namespaces.ip(f"link set {link} up")

    @contextmanager
    def without_address(self, address: str) -> Iterator[None]:
        """Nobody reaches an address, and it reaches nobody."""
        namespaces.ip(f"address del {address}/24 dev {self.bridge}")
        try:
            yield
        finally:
            namespaces.ip(f"address add {address}/24 dev {self.bridge}")


@contextmanager
def network(daemons: int) -> Iterator[Network]:
    """Raises NoNamespaces where this machine has no right to it."""
    mine = f"er{os.getpid()}"
    made = Network(bridge=mine, namespaces=tuple(f"{mine}-{number}" for number in range(daemons)))
    with ExitStack() as undone:
        for namespace in made.namespaces:
            namespaces.add(namespace)
            undone.callback(namespaces.delete, namespace)
        namespaces.if_allowed(f"link add {mine} type bridge")
        undone.callback(namespaces.ip, f"link delete {mine}")
        for address in (HERE, DATABASE, *REPLICAS):
            namespaces.ip(f"address add {address}/24 dev {mine}")
        namespaces.ip(f"link set {mine} up")
        for number, namespace in enumerate(made.namespaces):
            namespaces.ip(f"link add {mine}d{number} type veth peer name cable netns {namespace}")
            namespaces.ip(f"link set {mine}d{number} master {mine} up")
            namespaces.ip(f"-n {namespace} address add {PREFIX}.{20 + number}/24 dev cable")
            for link in ("cable", "lo"):
                namespaces.ip(f"-n {namespace} link set {link} up")
        yield made
