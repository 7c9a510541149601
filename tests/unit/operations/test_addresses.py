"""Hosts that are this machine, and hosts that are link-local, in all their spellings."""

from __future__ import annotations

import pytest

from daemon.operations.addresses import is_local, is_metadata


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.9.9.9",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "::1",
        "[::1]",
        "::ffff:127.0.0.1",
        "2130706433",
        "0x7f.1",
        "127.1",
    ],
)
def test_loopback_is_local(host: str) -> None:
    assert is_local(host)
    assert not is_metadata(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "kafka-0", "localhost.example.com", "2001:db8::1", ""])
def test_every_other_host_is_not(host: str) -> None:
    assert not is_local(host)
    assert not is_metadata(host)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "[fe80::1%eth0]",
        "fd00:ec2::254",
        "100.100.100.200",
        "::ffff:169.254.169.254",
        "2852039166",
        "0xA9FEA9FE",
        "0251.0376.0251.0376",
        "169.254.43518",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "metadata.google.internal",
        "Metadata.Google.Internal.",
    ],
)
def test_link_local_and_metadata_addresses_are_found_in_every_spelling(host: str) -> None:
    assert is_metadata(host)
    assert not is_local(host)
