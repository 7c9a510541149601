"""Connections to a cluster, and the reasons of failures: missing brokers, topics, certificates and credentials."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer

from connectors.kafka.consumer import Consumer, KafkaOptions, KafkaUnavailableError, TopicMissingError
from tests.fixtures.broker import options_of
from tests.fixtures.ports import free_port

TLS = Path(__file__).parents[1] / "fixtures" / "tls"


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_a_missing_topic_is_named_with_the_next_step(kafka):
    consumer = Consumer(options_of(kafka), topics=[kafka.topic], group_id="g", needs_topics=["nowhere"])
    with (
        closing(consumer),
        pytest.raises(TopicMissingError, match=r"has no topic nowhere: create it .*erratad creates no topics"),
    ):
        consumer.poll(0.1)


@pytest.mark.usefixtures("short_bootstrap")
def test_a_broker_that_is_not_there_is_said_to_be_so_and_no_thread_is_left():
    before = threads()
    said = why_unavailable(KafkaOptions(bootstrap_servers=(f"127.0.0.1:{free_port()}",)))
    assert "refuses the connection" in said
    assert "ECONNREFUSED" in said
    assert threads() == before


@pytest.mark.usefixtures("short_bootstrap")
def test_a_refused_connection_leaves_no_socket_open():
    before = set(Path("/proc/self/fd").iterdir())
    gc.disable()
    try:
        why_unavailable(KafkaOptions(bootstrap_servers=(f"127.0.0.1:{free_port()}",)))
        assert set(Path("/proc/self/fd").iterdir()) == before
    finally:
        gc.enable()


@pytest.fixture
def tls_server() -> Iterator[tuple[KafkaOptions, list[bytes]]]:
    """A server that speaks TLS and then hangs up: its address, and each client's bytes inside TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "localhost.crt", TLS / "localhost.key")
    listener = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.settimeout(5)
                with client, suppress(OSError), context.wrap_socket(client, server_side=True) as inside:
                    heard.append(inside.recv(1000))

    thread = threading.Thread(target=serve)
    thread.start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    yield KafkaOptions(bootstrap_servers=(address,), security_protocol="SSL"), heard
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


@pytest.fixture
def short_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.kafka.client.BOOTSTRAP_TIMEOUT_S", 1.0)
    monkeypatch.setattr("connectors.kafka.fixes.HANDSHAKE_TIMEOUT_S", 0.5)


def why_unavailable(options: KafkaOptions) -> str:
    with (
        closing(Consumer(options, topics=["t"], group_id="g")) as consumer,
        pytest.raises(KafkaUnavailableError) as info,
    ):
        consumer.poll(0.1)
    return str(info.value)


@pytest.mark.usefixtures("short_bootstrap")
def test_an_untrusted_certificate_is_said_to_be_one(tls_server):
    options, heard = tls_server
    assert "certificate verify failed" in why_unavailable(options)
    assert not any(heard)


@pytest.mark.usefixtures("short_bootstrap")
def test_a_certificate_of_the_given_ca_is_trusted(tls_server):
    options, heard = tls_server
    why_unavailable(replace(options, ssl_cafile=TLS / "localhost.crt"))
    assert any(options.client_id.encode() in said for said in heard)


@pytest.mark.usefixtures("short_bootstrap")
def test_a_ca_file_that_does_not_exist_is_said_to_be_missing(tls_server):
    options, _ = tls_server
    assert "(/nowhere.pem) cannot be read" in why_unavailable(replace(options, ssl_cafile=Path("/nowhere.pem")))


@pytest.mark.usefixtures("short_bootstrap")
def test_refused_credentials_are_diagnosed(kafka):
    options = replace(
        options_of(kafka),
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="u",
        sasl_password="p",
    )
    # the last of several attempts is named; under load that one may have been cut short
    assert any("UnsupportedSaslMechanism" in why_unavailable(options) for _ in range(5))


@pytest.mark.usefixtures("short_bootstrap")
@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_a_port_that_never_answers_does_not_hang_the_caller(protocol):
    with socket.create_server(("127.0.0.1", 0)) as hole:
        address = f"127.0.0.1:{hole.getsockname()[1]}"
        before, started = threads(), time.monotonic()
        said = why_unavailable(KafkaOptions(bootstrap_servers=(address,), security_protocol=protocol))
    assert f"refuses the connection by {protocol}" in said
    assert time.monotonic() - started < 5
    assert threads() == before


def test_the_password_is_in_no_representation_of_the_options():
    assert "hunter2" not in repr(KafkaOptions(bootstrap_servers=("a:1",), sasl_password="hunter2"))


def test_every_sasl_and_tls_option_reaches_the_client():
    options = KafkaOptions(
        bootstrap_servers=("a:1", "b:2"),
        security_protocol="SASL_SSL",
        ssl_cafile=TLS / "localhost.crt",
        ssl_certfile=TLS / "localhost.crt",
        ssl_keyfile=TLS / "localhost.key",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="me",
        sasl_password="secret",
    )
    settings = options.settings()
    assert set(settings) <= set(KafkaConsumer.DEFAULT_CONFIG)
    assert set(settings) <= set(KafkaProducer.DEFAULT_CONFIG)
    assert settings["bootstrap_servers"] == ["a:1", "b:2"]
    assert settings["sasl_plain_password"] == "secret"
    assert [authority["subject"] for authority in settings["ssl_context"].get_ca_certs()] == [
        ((("commonName", "localhost"),),)
    ]
