"""Concurrent chat requests to the alias. Records the outcome and the generation of every answer."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from daemon.records import utcnow


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """One request. `models`: the distinct `model` values in its answer; more than one is a mixed answer."""

    started: datetime
    ended: datetime
    streamed: bool
    models: tuple[str, ...] = ()
    error: str | None = None

    @property
    def failed(self) -> bool:
        return self.error is not None or len(self.models) != 1


class LoadGenerator:
    """`streams` threads that send the conversations round robin until `stop`. Every second request is streamed."""

    def __init__(
        self, url: str, model: str, conversations: Sequence[Sequence[dict[str, Any]]], *, streams: int, max_tokens: int
    ) -> None:
        self._client = httpx.Client(base_url=url, timeout=120.0)
        self._model = model
        self._turns = itertools.cycle(enumerate(conversations))
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._requests: list[LoadRequest] = []
        self._threads = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(streams)]

    @property
    def started(self) -> bool:
        return any(thread.ident is not None for thread in self._threads)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[LoadRequest]:
        """Finish the requests in flight. Returns all requests, oldest first."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._client.close()
        return sorted(self._requests, key=lambda request: request.started)

    def _ask_on(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                number, messages = next(self._turns)
            request = self._ask(messages, streamed=number % 2 == 1)
            with self._lock:
                self._requests.append(request)

    def _ask(self, messages: Sequence[dict[str, Any]], *, streamed: bool) -> LoadRequest:
        started = utcnow()
        body = {"model": self._model, "messages": messages, "max_tokens": self._max_tokens, "stream": streamed}
        models: tuple[str, ...] = ()
        error = None
        try:
            models = self._stream(body) if streamed else self._whole(body)
        except (httpx.HTTPError, ValueError, KeyError) as exc:
            error = f"{type(exc).__name__}: {exc}"
        return LoadRequest(started=started, ended=utcnow(), streamed=streamed, models=models, error=error)

    def _whole(self, body: dict[str, Any]) -> tuple[str, ...]:
        response = self._client.post("/v1/chat/completions", json=body)
        response.raise_for_status()
        return (response.json()["model"],)

    def _stream(self, body: dict[str, Any]) -> tuple[str, ...]:
        models: dict[str, None] = {}
        with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    return tuple(models)
                if line.startswith("data: "):
                    models[json.loads(line.removeprefix("data: "))["model"]] = None
        raise ValueError("the stream ended without [DONE]")
