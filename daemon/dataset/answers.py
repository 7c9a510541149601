"""Answers of the base model, each asked for once and kept on disk, by the fingerprint of the model.

An interrupted run goes on with what is there. Another model, template, temperature or length is asked anew.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.chat import UNANSWERABLE, EndpointError
from connectors.messages.shapes import is_blank
from daemon.artifacts.files import write_atomically
from daemon.runtime.stage import Life
from daemon.serving.fleet import Fleet

REFUSED_S = 7 * 86_400.0
"""After this time a refused question is asked again: the servers may have been set up otherwise."""


LOOK_S = 1.0

GoesOn = Callable[[int], bool]
"""Whether to go on asking, with this number of questions left."""


def always(_left: int) -> bool:
    return True


def while_wanted(life: Life, check: GoesOn) -> GoesOn:
    """The check, made once in `LOOK_S`: it costs a request or a query. A daemon that stops does not go on."""
    checked_at = time.monotonic()

    def goes_on(left: int) -> bool:
        nonlocal checked_at
        if life.stopping:
            return False
        if time.monotonic() - checked_at < LOOK_S:
            return True
        checked_at = time.monotonic()
        return check(left)

    return goes_on


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One answer that is wanted."""

    messages: tuple[Mapping[str, Any], ...]
    identity: str
    """64 hex digits that tell the question, and the draw, from others; the seed follows from them."""
    max_tokens: int
    temperature: float
    report_id: str | None = None
    """The report whose text the question holds."""

    @property
    def seed(self) -> int:
        return int(self.identity[:8], 16)

    @classmethod
    def of(
        cls, messages: Sequence[Mapping[str, Any]], *, max_tokens: int, temperature: float, report_id: str, number: int
    ) -> Draw:
        """Draw `number` of the answers to a report's conversation."""
        content = json.dumps([number, list(messages)], sort_keys=True)
        return cls(
            messages=tuple(messages),
            identity=hashlib.sha256(content.encode()).hexdigest(),
            max_tokens=max_tokens,
            temperature=temperature,
            report_id=report_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`refusal` is the server's reason if it did not answer."""

    text: str = ""
    ends: bool = True
    """False: cut at the token limit."""
    refusal: str | None = None


class Answers:
    """The cache in `folder`. One for ordinary prompts, another for reports: they are cleaned at different times."""

    def __init__(self, *, fleet: Fleet, base_name: str, folder: Path, fingerprint: str) -> None:
        self._fleet = fleet
        self._base_name = base_name
        self._folder = folder
        self._fingerprint = fingerprint

    def known(self, draw: Draw) -> Answer | None:
        """The kept answer, thoughts included; None: the question must be asked."""
        path = self._path(draw)
        try:
            entry = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        if "refusal" in entry:
            is_old = time.time() - path.stat().st_mtime > REFUSED_S
            return None if is_old else Answer(refusal=entry["refusal"])
        return Answer(text=entry["text"].strip(), ends=entry["ends"])

    def shown(self, answer: Answer) -> str:
        """The answer without thoughts, as a user sees it."""
        return self._fleet.preparation.split(answer.text, opened=True).answer.strip()

    def ask(self, draws: Sequence[Draw], *, goes_on: GoesOn = always) -> int:
        """Ask the base model and keep its answers as they come; returns the number of draws without one.

        A refusal of a question is kept, too: it is not asked again for `REFUSED_S`. `goes_on` gets the number of draws
        without an answer, several times a second; after it is false, no further draw is asked.

        Raises:
            EndpointError, ServingError: if a server does not answer.
        """
        left, failure = len(draws), None

        def wanted() -> bool:
            return failure is None and goes_on(left)

        for done in self._fleet.asking.each(draws, self._ask, goes_on=wanted, name="answers"):
            left -= len(done)
            failure = failure or next((exc for one in done if (exc := one.future.exception())), None)
        if failure is not None:
            raise failure
        return left

    def _ask(self, draw: Draw) -> None:
        try:
            entry = self._answer(draw)
        except EndpointError as exc:
            if exc.status not in UNANSWERABLE:
                raise
            entry = {"refusal": str(exc)}
        entry["messages"] = list(draw.messages)
        if draw.report_id is not None:
            entry["report_id"] = draw.report_id
        write_atomically(self._path(draw), json.dumps(entry, ensure_ascii=False).encode())

    def _answer(self, draw: Draw) -> dict[str, Any]:
        reply = self._fleet.any().chat(
            self._base_name,
            draw.messages,
            max_tokens=draw.max_tokens,
            temperature=draw.temperature,
            seed=draw.seed,
        )
        text = self._fleet.preparation.whole(reply.thoughts, reply.text) if not is_blank(reply.text) else ""
        return {"text": text, "ends": not reply.truncated}

    def forget_others(self, draws: Collection[Draw]) -> None:
        """Delete all other answers, of other models, too: they may belong to an erased report."""
        kept = {self._path(draw) for draw in draws}
        for path in self._folder.glob("*/*.json"):
            if path not in kept:
                path.unlink()

    def _path(self, draw: Draw) -> Path:
        asked = f"{draw.temperature:g} {draw.max_tokens} {self._fleet.preparation.template}\n{draw.identity}"
        key = hashlib.sha256(asked.encode()).hexdigest()
        return self._folder / self._fingerprint[:16] / f"{key}.json"
