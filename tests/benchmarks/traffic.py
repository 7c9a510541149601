"""Steady concurrent requests to one alias, half of them streamed, each recorded from first to last token."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from connectors.chat import GENERATION_HEADER

TIMEOUT_S = 120.0


@dataclass(slots=True, kw_only=True)
class Sample:
    """One request; times are of `time.monotonic`. `models`: what each part of the answer called its model."""

    streamed: bool
    sent_at: float
    first_at: float = 0.0
    done_at: float = 0.0
    generation: int | None = None
    models: set[str] = field(default_factory=set)
    text: str = ""
    error: str | None = None

    @property
    def seconds(self) -> float:
        return self.done_at - self.sent_at


class Traffic:
    """`clients` clients that ask one request after another until they are told to stop."""

    def __init__(self, url: str, *, model: str, api_key: str, clients: int, max_tokens: int) -> None:
        self._model = model
        self._clients = clients
        self._max_tokens = max_tokens
        self._http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=httpx.Timeout(TIMEOUT_S)
        )
        self._stopping = False
        self.samples: list[Sample] = []

    async def run(self) -> None:
        try:
            await asyncio.gather(*(self._ask_on(client) for client in range(self._clients)))
        finally:
            await self._http.aclose()

    def stop(self) -> None:
        """Requests in flight are still answered."""
        self._stopping = True

    async def _ask_on(self, client: int) -> None:
        turn = 0
        while not self._stopping:
            turn += 1
            sample = Sample(streamed=client % 2 == 0, sent_at=time.monotonic())
            try:
                await self._ask(sample, f"Client {client}, question {turn}: what comes next?")
            except (httpx.HTTPError, ValueError, KeyError) as exc:
                sample.error = f"{type(exc).__name__}: {exc}"
            sample.done_at = time.monotonic()
            self.samples.append(sample)

    async def _ask(self, sample: Sample, question: str) -> None:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": self._max_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": sample.streamed,
        }
        if not sample.streamed:
            response = await self._http.post("/v1/chat/completions", json=body)
            _note_head(sample, response)
            sample.first_at = time.monotonic()
            answer = response.json()
            sample.models.add(answer["model"])
            sample.text = answer["choices"][0]["message"]["content"]
            return
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            _note_head(sample, response)
            finished = False
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    finished = _note_chunk(sample, json.loads(line.removeprefix("data: "))) or finished
            if not finished:
                raise ValueError("the stream ended before its last token")


def _note_head(sample: Sample, response: httpx.Response) -> None:
    response.raise_for_status()
    if GENERATION_HEADER in response.headers:
        sample.generation = int(response.headers[GENERATION_HEADER])


def _note_chunk(sample: Sample, chunk: dict[str, Any]) -> bool:
    """Whether this is the last one."""
    [choice] = chunk["choices"]  # a chunk with an error has none
    sample.models.add(chunk["model"])
    text = choice["delta"].get("content") or ""
    if not sample.first_at and text:
        sample.first_at = time.monotonic()
    sample.text += text
    return choice["finish_reason"] is not None


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: a value that was measured, not one between two."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
