"""Patches for three bugs of kafka-python 3.0.12; `install` applies them to this process.

- Header keys are decoded strictly inside `poll()`. One record with a key that is not UTF-8, which librdkafka and Go
  clients can write, would block its partition permanently
  (`test_a_header_key_that_is_not_utf8_does_not_block_its_partition`).
- A refused connection leaves its socket open until garbage collection, so an outage uses up file descriptors
  (`test_a_refused_connection_leaves_no_socket_open`).
- A TLS handshake has no timeout, so a port that never answers blocks the caller permanently
  (`test_a_port_that_never_answers_does_not_hang_the_caller`). A failed handshake leaves its socket open, too.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import Any

from kafka.net.inet import KafkaNetSocket
from kafka.net.transport import KafkaSSLTransport
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch

HANDSHAKE_TIMEOUT_S = 4.0

_sock_connect = KafkaNetSocket.sock_connect


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


def install() -> None:
    memory_records.DefaultRecordBatch = TolerantBatch
    KafkaNetSocket.sock_connect = _connect_or_close
    KafkaSSLTransport.handshake = _bounded_handshake
