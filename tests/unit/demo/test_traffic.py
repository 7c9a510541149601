"""The requests that the demo counts."""

from __future__ import annotations

import threading

from connectors.vllm import VllmServer
from daemon.demo.traffic import Exchange, Traffic
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm

TALK = [[{"role": "user", "content": "hello"}]]


def test_traffic_counts_what_was_answered_and_by_which_generation(fake_vllm: FakeVllm) -> None:
    asked = _traffic(fake_vllm, live=True)
    assert len(asked) >= 4
    assert {exchange.streamed for exchange in asked} == {True, False}
    assert {exchange.models for exchange in asked} == {("aligned-g000000",)}
    assert not any(exchange.failed for exchange in asked)


def test_traffic_counts_every_refusal_as_failed(fake_vllm: FakeVllm) -> None:
    asked = _traffic(fake_vllm, live=False)
    assert asked
    assert all(exchange.failed and "503" in str(exchange.error) for exchange in asked)


def _traffic(fake: FakeVllm, *, live: bool) -> list[Exchange]:
    if live:
        _set_live(fake)
    traffic = Traffic(fake.url, "aligned", TALK * 2, streams=2, max_tokens=4)
    traffic.start()
    threading.Event().wait(0.5)
    return traffic.stop()


def _set_live(fake: FakeVllm) -> None:
    server = VllmServer(fake.url, api_key=None, admin_token=ADMIN_TOKEN)
    server.set_live("aligned-g000000", expected=None)
    server.close()
