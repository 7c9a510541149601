"""The live model: a real server, with the base model's answers kept on disk, and a stand-in that repeats reports."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from connectors.chat import Reply
from connectors.guidance import with_guidance
from connectors.vllm import Score, VllmServer
from daemon.artifacts.files import write_atomically
from tests.benchmarks.poison.people import Filed

ANSWER_TOKENS = 40
STREAMS = 16
PATIENCE_S = 300.0


class KeptModel:
    """A client of the real server. What a model answered is not asked again, not even by a later call.

    A sampled answer is kept by its place among equal requests: the second request does not get the first one's answer.
    `weights` names the weights behind a model's name, because every deployment calls its first adapter the same; None:
    the answers under this name are not kept.
    """

    def __init__(
        self,
        server: VllmServer,
        *,
        base_name: str,
        guidance: str,
        folder: Path,
        weights: Callable[[str], str | None] = lambda _name: None,
    ) -> None:
        self._server = server
        self._base_name = base_name
        self._weights = weights
        self._guidance = guidance
        self._folder = folder
        self._asked: Counter[str] = Counter()
        self._counting = threading.Lock()

    def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> Reply:
        if (identity := self._identity(model)) is None:
            return self._server.chat(model, messages, **options)
        path = self._path(
            "chat", *identity, messages, {key: value for key, value in options.items() if key != "timeout_s"}
        )
        if not path.exists():
            reply = self._server.chat(model, messages, **{**options, "timeout_s": PATIENCE_S})
            write_atomically(path, json.dumps(asdict(reply), ensure_ascii=False).encode())
        return Reply(**json.loads(path.read_bytes()))

    def score(self, model: str, messages: Sequence[Mapping[str, Any]], completion: str) -> Score:
        if (identity := self._identity(model)) is None:
            return self._server.score(model, messages, completion)
        path = self._path("score", *identity, messages, completion, sampled=False)
        if not path.exists():
            write_atomically(path, json.dumps(asdict(self._server.score(model, messages, completion))).encode())
        return Score(**json.loads(path.read_bytes()))

    def served(self, messages: Sequence[Mapping[str, Any]], *, model: str | None = None) -> str:
        """The answer of the base model, or of an adapter by its name, with the guidance, as a backend gets it."""
        asked = with_guidance(messages, self._guidance)
        return self.chat(model or self._base_name, asked, max_tokens=ANSWER_TOKENS, temperature=0.0).text

    def ask_ahead(self, conversations: Iterable[Sequence[Mapping[str, Any]]]) -> None:
        """Ask many at the same time, so that the answers are kept when `served` is called for each."""
        with ThreadPoolExecutor(STREAMS) as pool:
            list(pool.map(self.served, conversations))

    def _identity(self, model: str) -> tuple[str, ...] | None:
        if model == self._base_name:
            return ()
        weights = self._weights(model)
        return None if weights is None else (weights,)

    def _path(self, *about: Any, sampled: bool = True) -> Path:
        key = hashlib.sha256(json.dumps(about, sort_keys=True, default=dict).encode()).hexdigest()
        greedy = not sampled or about[-1].get("temperature", 0.0) == 0.0 or about[-1].get("seed") is not None
        with self._counting:
            place = 0 if greedy else self._asked[key]
            self._asked[key] += 1
        return self._folder / key[:2] / f"{key}-{place}.json"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class Parrot:
    """A model that gives each reported question the reported answer, so that every claim about it can be reproduced.

    It stands in where nothing is trained. That is the best case of an attacker.
    """

    url = "http://parrot"

    def __init__(self, filed: Iterable[Filed] = ()) -> None:
        self._answers: dict[str, str] = {}
        self.learn(filed)

    def learn(self, filed: Iterable[Filed]) -> None:
        for one in filed:
            self._answers.setdefault(one.flagged.messages[-1].text, one.flagged.response)

    def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **_options: Any) -> Reply:
        text = self._answers.get(str(messages[-1]["content"]), "Yes, of course.")
        return Reply(text=text, model=model, generation=None, finish_reason="stop", completion_tokens=len(text.split()))

    def score(self, _model: str, _messages: Sequence[Mapping[str, Any]], completion: str) -> Score:
        return Score(logprob=-float(len(completion.split())), tokens=len(completion.split()))

    def ready(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing is open."""
