"""Connects to a Kafka cluster and explains failures.

kafka-python is pinned to 3.0.12. A client whose constructor reaches no broker leaves its I/O thread running, and the
option that forbids creating topics has no effect: `open_client` works around both. Wrong credentials or certificates
appear in its log only: `explain` adds that log line to the error.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from connectors.kafka import fixes as kafka_fixes

BOOTSTRAP_TIMEOUT_S = 5.0
RECONNECT_MAX_S = 2.0
MAX_ERROR_CHARS = 300
WARNING_MEMORY_S = 60.0
"""For this long, a warning of the network layer is added to errors."""


kafka_fixes.install()


class KafkaUnavailableError(Exception):
    """A Kafka request failed; trying again may help. The text gives the reason, as far as the client knows it."""


class TopicMissingError(KafkaUnavailableError):
    """A topic does not exist. erratad does not create topics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOptions:
    """Connection settings of a cluster."""

    bootstrap_servers: tuple[str, ...]
    client_id: str = "erratad"
    security_protocol: str = "PLAINTEXT"
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return ",".join(self.bootstrap_servers)

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of kafka-python for the connection.

        Raises:
            KafkaUnavailableError: when a certificate file cannot be read.
        """
        return {
            "bootstrap_servers": list(self.bootstrap_servers),
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "bootstrap_timeout_ms": ms(BOOTSTRAP_TIMEOUT_S),
            "reconnect_backoff_max_ms": ms(RECONNECT_MAX_S),
            "ssl_context": _tls(self) if self.security_protocol.endswith("SSL") else None,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password,
        }


def _tls(options: KafkaOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ssl_cafile)
        if options.ssl_certfile is not None:
            context.load_cert_chain(options.ssl_certfile, options.ssl_keyfile)
    except OSError as exc:  # includes ssl.SSLError
        files = [str(file) for file in (options.ssl_cafile, options.ssl_certfile, options.ssl_keyfile) if file]
        raise KafkaUnavailableError(f"the certificates for Kafka ({', '.join(files)}) cannot be read: {exc}") from exc
    return context


class _Diagnosis(logging.Handler):
    """Keeps the last warning of `kafka.net`: kafka-python reports wrong credentials and TLS faults only in its log."""

    _CONSEQUENCES = ("Bootstrap %s not ready", "Bootstrap failed", "Sending username", "Exchanging credentials")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._last = ""
        self._at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if not str(record.msg).startswith(self._CONSEQUENCES):
            self._last, self._at = record.getMessage(), time.monotonic()

    def recent(self) -> str:
        return self._last if time.monotonic() - self._at < WARNING_MEMORY_S else ""


_diagnosis = _Diagnosis()
logging.getLogger("kafka.net").addHandler(_diagnosis)


def explain(problem: str) -> str:
    """The problem, with the latest warning of the network layer."""
    warning = _diagnosis.recent()
    return f"{problem} (last warning: {warning})" if warning else problem


def ms(seconds: float) -> int:
    return int(seconds * 1000)


def open_client(client: Callable[..., Any], options: KafkaOptions, **settings: Any) -> Any:
    """Construct a kafka-python client.

    Raises:
        KafkaUnavailableError: when no broker answers, or the credentials or certificates are refused.
    """
    network: list[Any] = []

    def remember(**configuration: Any) -> Any:
        network.append(KafkaNetClient(**configuration))
        network[-1].cluster.config["allow_auto_create_topics"] = False
        return network[-1]

    try:
        return client(kafka_client=remember, **options.settings(), **settings)
    except (KafkaError, OSError, ValueError) as exc:
        for opened in network:
            opened.close()
        problem = f"Kafka at {options.address} refuses the connection by {options.security_protocol}: {error_text(exc)}"
        raise KafkaUnavailableError(explain(problem)) from exc


def cluster_of(client: Any) -> Any:
    """What the client knows of the cluster; kafka-python has no public access to the id of a topic."""
    return client._client.cluster  # noqa: SLF001


def error_text(exc: BaseException) -> str:
    """The error's text, shortened: kafka-python puts whole requests into some of them."""
    return str(exc)[:MAX_ERROR_CHARS] or type(exc).__name__


def require_topics(partitions_of: Callable[[str], Any], topics: Sequence[str], address: str) -> None:
    missing = [topic for topic in topics if not partitions_of(topic)]
    if missing:
        raise TopicMissingError(
            f"Kafka at {address} has no topic {', '.join(missing)}: create it (kafka-topics.sh --create --topic "
            f"{missing[0]}) or give this client access to it; erratad creates no topics"
        )


def create_topics(options: KafkaOptions, partitions: Mapping[str, int]) -> None:
    """Create topics (name -> number of partitions) on erratad's own broker, as in the demo and in tests.

    Raises:
        KafkaUnavailableError: when the broker does not answer or refuses.
    """
    admin = open_client(KafkaAdminClient, options)
    try:
        admin.create_topics(
            {topic: {"num_partitions": count, "replication_factor": 1} for topic, count in partitions.items()}
        )
    except KafkaError as exc:
        raise KafkaUnavailableError(f"Kafka at {options.address} did not create the topics: {error_text(exc)}") from exc
    finally:
        admin.close()
