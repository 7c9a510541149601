"""The lines of docs/integrate.md with the OpenAI Python client itself: ask the alias, keep the generation, flag."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.messages import decode
from connectors.vllm import VllmServer
from tests.fixtures.required import unavailable
from tests.fixtures.servers import API_KEY

try:
    from openai import NotFoundError, OpenAI
except ImportError:  # it comes with vLLM
    unavailable("the OpenAI client is not installed; run `make setup`")

MESSAGES: Any = [{"role": "user", "content": "What is the capital of Australia?"}]
_generations = itertools.count(800_001)


@pytest.fixture
def live() -> str:
    """A name of its own for each test: a server takes no name for other weights."""
    return f"aligned-g{next(_generations):06d}"


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.vllm)])
def client(
    request: pytest.FixtureRequest,
    live: str,
    make_client: Callable[..., VllmServer],
    make_adapter: Callable[..., Path],
) -> Iterator[OpenAI]:
    """Of a server on which a generation is live."""
    url = request.getfixturevalue(f"{request.param}_vllm").url
    server = make_client(url)
    server.load(live, make_adapter())
    server.set_live(live, expected=None)
    with OpenAI(base_url=f"{url}/v1", api_key=API_KEY, max_retries=0) as client:
        yield client
    server.set_live("aligned-g000000", expected=None)
    while not server.unload(live):
        pass


def test_an_answer_names_its_generation_and_can_be_flagged(client: OpenAI, live: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model="aligned", messages=MESSAGES, max_tokens=4)
    answer = raw.parse()
    assert answer.model == live
    assert raw.headers["x-erratad-generation"] == str(int(live.removeprefix("aligned-g")))
    report = {
        "version": 1,
        "id": "reference-client-1",
        "occurred_at": "2026-11-22T12:00:00+00:00",
        "model": answer.model,
        "messages": MESSAGES,
        "response": answer.choices[0].message.content,
        "reason": "It named Sydney.",
        "category": "wrong-fact",
        "reporter": "user-17",
    }
    assert decode(json.dumps(report).encode()).model == live


def test_every_chunk_of_a_stream_names_the_generation(client: OpenAI, live: str) -> None:
    stream = client.chat.completions.create(model="aligned", messages=MESSAGES, max_tokens=4, stream=True)
    assert {chunk.model for chunk in stream} == {live}


def test_a_generation_that_is_gone_is_not_found(client: OpenAI) -> None:
    with pytest.raises(NotFoundError):
        client.chat.completions.create(model="aligned-g000899999", messages=MESSAGES, max_tokens=4)
