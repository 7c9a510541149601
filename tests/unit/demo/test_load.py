"""The concurrent requests of the demo and their counts."""

from __future__ import annotations

import threading

from connectors.vllm import VllmServer
from daemon.demo.load import LoadGenerator, LoadRequest
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm

TALK = [[{"role": "user", "content": "hello"}]]


def test_load_counts_what_was_answered_and_by_which_generation(fake_vllm: FakeVllm) -> None:
    asked = _load(fake_vllm, live=True)
    assert len(asked) >= 4
    assert {request.streamed for request in asked} == {True, False}
    assert {request.models for request in asked} == {("aligned-g000000",)}
    assert not any(request.failed for request in asked)


def test_load_counts_every_refusal_as_failed(fake_vllm: FakeVllm) -> None:
    asked = _load(fake_vllm, live=False)
    assert asked
    assert all(request.failed and "503" in str(request.error) for request in asked)


def _load(fake: FakeVllm, *, live: bool) -> list[LoadRequest]:
    if live:
        _set_live(fake)
    load = LoadGenerator(fake.url, "aligned", TALK * 2, streams=2, max_tokens=4)
    load.start()
    threading.Event().wait(0.5)
    return load.stop()


def _set_live(fake: FakeVllm) -> None:
    server = VllmServer(fake.url, api_key=None, admin_token=ADMIN_TOKEN)
    server.set_live("aligned-g000000", expected=None)
    server.close()
