"""Patches for four bugs of kafka-python 3.0.12; `install` applies them to this process.

- Header keys are decoded strictly inside `poll()`. One record with a key that is not UTF-8, which librdkafka and Go
  clients can write, would block its partition permanently
  (`test_a_header_key_that_is_not_utf8_does_not_block_its_partition`).
- A refused connection leaves its socket open until garbage collection, so an outage uses up file descriptors
  (`test_a_refused_connection_leaves_no_socket_open`).
- A TLS handshake has no timeout, so a port that never answers blocks the caller permanently
  (`test_a_port_that_never_answers_does_not_hang_the_caller`). A failed handshake leaves its socket open, too.
- A join of the group that the broker answers between two polls is lost, and the member joins again. Each join takes as
  long as the broker waits for other members, so a member that does something between its polls may stay without
  partitions (`test_a_join_that_is_answered_between_two_polls_counts`).
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import Any

from kafka.coordinator.base import BaseCoordinator
from kafka.future import Future
from kafka.net.inet import KafkaNetSocket
from kafka.net.transport import KafkaSSLTransport
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch

HANDSHAKE_TIMEOUT_S = 4.0

_sock_connect = KafkaNetSocket.sock_connect
_join_group = BaseCoordinator.join_group_async


class _LenientText(bytes):
    def decode(self, *_: Any, **__: Any) -> str:
        return bytes(self).decode("utf-8", "backslashreplace")


class _LenientBuffer(bytes):
    def __getitem__(self, index: Any) -> Any:
        piece = super().__getitem__(index)
        return _LenientText(piece) if isinstance(index, slice) else piece


class TolerantBatch(DefaultRecordBatch):  # type: ignore[misc]
    """Reads a batch like kafka-python, but turns header-key bytes that are not UTF-8 into backslash escapes."""

    _buffer: Any

    def _read_msg(self, *args: Any, **settings: Any) -> Any:
        try:
            return super()._read_msg(*args, **settings)
        except UnicodeDecodeError:
            self._buffer = _LenientBuffer(self._buffer)
            return super()._read_msg(*args, **settings)


async def _connect_or_close(self: Any, net: Any, sock: socket.socket, *args: Any, **settings: Any) -> Any:
    try:
        return await _sock_connect(self, net, sock, *args, **settings)
    except Exception:
        sock.close()
        raise


async def _bounded_handshake(self: Any) -> None:
    deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S
    done = False
    try:
        while not done:
            try:
                self._sock.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                await self._net.wait_read(self._sock, timeout_at=deadline)
            except ssl.SSLWantWriteError:
                await self._net.wait_write(self._sock, timeout_at=deadline)
    finally:
        if not done:
            self._sock.close()


async def _join_or_finish(self: Any, *args: Any, **settings: Any) -> Any:
    answered = self._join_task
    if answered is not None and answered.is_done:
        self._join_task = pending = Future()  # `join_group_async` waits for a join that is not done, and drops others
        if answered.failed():
            self._manager.call_soon(pending.failure, answered.exception)
        else:
            self._manager.call_soon(pending.success, answered.value)
    return await _join_group(self, *args, **settings)


def joins(consumer: Any) -> bool:
    """Whether the client has asked the group to take it in, and has not seen the answer."""
    return consumer._coordinator._join_task is not None  # noqa: SLF001


def install() -> None:
    memory_records.DefaultRecordBatch = TolerantBatch
    KafkaNetSocket.sock_connect = _connect_or_close
    KafkaSSLTransport.handshake = _bounded_handshake
    BaseCoordinator.join_group_async = _join_or_finish
