"""Which hosts are this machine, and which are link-local, however they are written."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_METADATA_NETWORKS = [
    ip_network(one)
    for one in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
    )
]
"""Link-local networks, and the other addresses where clouds serve credentials to machines."""
_METADATA_NAMES = ("metadata", "instance-data", "metadata.google.internal", "metadata.goog", "metadata.azure.internal")


def is_local(host: str) -> bool:
    """Whether the host is this machine: a loopback address or name."""
    name = _bare(host)
    address = _address(name)
    if address is None:
        return name == "localhost" or name.endswith(".localhost")
    return address.is_loopback


def is_metadata(host: str) -> bool:
    """Whether the host is link-local or a cloud's metadata service. Names are not resolved."""
    name = _bare(host)
    address = _address(name)
    if address is None:
        return name in _METADATA_NAMES or name.endswith(".instance-data")
    return any(address in network for network in _METADATA_NETWORKS if network.version == address.version)


def _bare(host: str) -> str:
    """Without the brackets and the zone of an IPv6 address, and without the last dot of a name."""
    return host.lower().strip("[]").partition("%")[0].rstrip(".")


def _address(name: str) -> IPv4Address | IPv6Address | None:
    """The address, also if it is written as clients accept it: 0x7f.1, 2130706433, ::ffff:127.0.0.1."""
    try:
        address = ip_address(name)
    except ValueError:
        try:
            return IPv4Address(socket.inet_aton(name))
        except OSError:
            return None
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or address.sixtofour or _nat64(address) or address


def _nat64(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address inside an address of RFC 6052."""
    return IPv4Address(address.packed[12:]) if address in ip_network("64:ff9b::/96") else None
