"""What the trainer and the servers can use of a run's conversations. Each conversation is read once per run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from typing import NamedTuple, Protocol

from daemon.chat.reader import Question, Reading
from daemon.config.serving import ServingConfig
from daemon.labels import LeftOut
from daemon.runtime.stage import Life

NO_LIMIT = 2**31 - 1


class Limit(NamedTuple):
    """The longest conversation in tokens, and the reason for leaving out a longer one."""

    tokens: int
    reason: LeftOut


class Asked(NamedTuple):
    """A conversation with its limit."""

    question: Question
    limit: Limit

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.limit.tokens} {self.question.model_dump_json()}".encode()).hexdigest()


class Refusal(NamedTuple):
    """Why a conversation cannot be used."""

    reason: LeftOut
    detail: str


class Reads(Protocol):
    """The part of `Reader` that is used here."""

    def read(self, questions: Sequence[Question], *, max_tokens: int) -> list[Reading]: ...


class OpensReader(Protocol):
    """`Reader` with its model; the daemon's `life` comes with each call."""

    def __call__(self, *, life: Life) -> AbstractContextManager[Reads]: ...


def served_limit(serving: ServingConfig) -> Limit:
    """The context of the servers, less one token. Attached servers may have another: they refuse by themselves."""
    tokens = serving.max_model_len - 1 if serving.mode == "managed" else NO_LIMIT
    return Limit(tokens, LeftOut.TOO_LONG_TO_SERVE)


class Readings:
    """The readings of one run at a time, in memory."""

    def __init__(self, reader: OpensReader) -> None:
        self._reader = reader
        self._run_id: int | None = None
        self._known: dict[str, Reading] = {}

    @contextmanager
    def of_run(self, run_id: int, life: Life) -> Iterator[Session]:
        """Read within this block. The child is started at the first conversation that was not read yet."""
        if run_id != self._run_id:
            self._run_id = run_id
            self._known.clear()
        with ExitStack() as stack:
            yield Session(self._known, lambda: stack.enter_context(self._reader(life=life)))


class Session:
    """One child at most.

    Raises (from `read`):
        ConfigError, ChatReaderError, StoppedError: see `Reader`.
    """

    def __init__(self, known: dict[str, Reading], start: Callable[[], Reads]) -> None:
        self._known = known
        self._start = start

    def read(self, asked: Iterable[Asked]) -> bool:
        """Read those that were not read yet. Whether one of them cannot be used."""
        waiting = {key: one for one in asked if (key := one.key) not in self._known}
        found: dict[str, Reading] = {}
        for limit in {one.limit for one in waiting.values()}:
            part = {key: one.question for key, one in waiting.items() if one.limit == limit}
            readings = self._child.read([*part.values()], max_tokens=limit.tokens)
            found |= {key: _named(one, limit) for key, one in zip(part, readings, strict=True)}
        self._known |= found
        return any(one.left_out is not None for one in found.values())

    def refusal(self, asked: Iterable[Asked]) -> Refusal | None:
        """Why the first of them cannot be used; None if all can be used or were not read yet."""
        for one in asked:
            reading = self._known.get(one.key)
            if reading is not None and reading.left_out is not None:
                return Refusal(reading.left_out, reading.detail)
        return None

    @cached_property
    def _child(self) -> Reads:
        return self._start()


def _named(reading: Reading, limit: Limit) -> Reading:
    too_long = reading.left_out is LeftOut.TOO_LONG
    return reading.model_copy(update={"left_out": limit.reason}) if too_long else reading
