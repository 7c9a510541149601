"""Every question of a stage to the model servers is asked here: as many at a time as keep them busy, and no more.

The stages share the one `Asking` of their fleet. Users' requests do not pass here: `daemon.serving.limit` makes way for
them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Generic, NamedTuple, TypeVar

from connectors.chat import EndpointError
from connectors.vllm import VllmServer
from connectors.vllm_wire import Work
from daemon import metrics
from daemon.errors import ServingError
from daemon.serving.limit import AdaptiveLimit, Load

LOOK_S = 0.5
"""Interval of looks at the servers while questions are in flight."""
STALE_S = 5.0
"""Between looks that are further apart, nothing was asked: they say nothing of the limit."""
LOOK_TIMEOUT_S = 5.0
TICK_S = 0.2
MOST = 64
UNSEEN = 8
"""The limit while no server tells what it does, as with an older plugin."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Done(NamedTuple, Generic[Item, Result]):
    """An item and what became of it."""

    item: Item
    future: Future[Result]


class Asking:
    """The limit that all askers share. Thread-safe.

    `limit` None: always `MOST`. Each asker may always have one question in flight, so that none starves.
    """

    def __init__(
        self,
        servers: Callable[[], Sequence[VllmServer]] = tuple,
        *,
        limit: AdaptiveLimit | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._in_flight = 0
        self._looked_at = 0.0
        self._seen: Mapping[tuple[str, str], Work] = {}
        self._show()

    @property
    def limit(self) -> int:
        """How many questions may be in flight now."""
        if self._limit is None:
            return MOST
        return self._limit.value if self._seen else self._limit.within(UNSEEN)

    @property
    def users(self) -> bool:
        """Whether users asked at the last look."""
        return self._limit is not None and self._limit.users

    def each(
        self,
        items: Iterable[Item],
        ask: Callable[[Item], Result],
        *,
        at_most: int | None = None,
        goes_on: Callable[[], bool] = lambda: True,
        name: str = "asking",
    ) -> Iterator[list[Done[Item, Result]]]:
        """Ask about each item in a thread; yields what has ended every `TICK_S`, also nothing, and failures at once.

        An item is taken only when it can be asked about at once, and none after `goes_on` is false. Those in flight are
        awaited then. `at_most`: a limit of this asker, besides the shared one.
        """
        most = MOST if self._limit is None else self._limit.ceiling
        width = most if at_most is None else min(at_most, most)
        source, pending, ended = iter(items), dict[Future[Result], Item](), list[Done[Item, Result]]()
        yielded_at = self._clock()
        with ThreadPoolExecutor(width, thread_name_prefix=name) as pool:
            while True:
                while len(pending) < width and goes_on() and self._take(beside=len(pending)):
                    try:
                        item = next(source)
                    except BaseException as exc:
                        self._give_back()
                        if not isinstance(exc, StopIteration):
                            raise
                        goes_on = _ended
                        break
                    pending[pool.submit(self._ask, ask, item)] = item
                if not pending:
                    break
                self._look()  # now, because as many are in flight as there can be
                done, _ = wait(pending, timeout=TICK_S, return_when=FIRST_COMPLETED)
                ended += [Done(pending.pop(future), future) for future in done]
                if any(map(_failed, done)) or self._clock() - yielded_at >= TICK_S:
                    yield ended
                    ended, yielded_at = [], self._clock()
        yield ended

    def _take(self, *, beside: int) -> bool:
        with self._lock:
            if beside and self._in_flight >= self.limit:
                return False
            self._in_flight += 1
            return True

    def _give_back(self) -> None:
        with self._lock:
            self._in_flight -= 1

    def _ask(self, ask: Callable[[Item], Result], item: Item) -> Result:
        """Runs in a worker thread."""
        try:
            result = ask(item)
            self._note(result)
            return result
        except (EndpointError, ServingError) as exc:
            self._note(exc)
            raise
        finally:
            self._give_back()

    def _note(self, result: object) -> None:
        """Ask less after a server failed, whether the failure was raised or returned."""
        out = isinstance(result, ServingError) or (isinstance(result, EndpointError) and result.transient)
        if out and self._limit is not None:
            with self._lock:
                self._limit.failed()
            self._show()

    def _look(self) -> None:
        """Ask the servers what they did since the last look, if it is time. One thread at a time does it."""
        if self._limit is None or not self._looking.acquire(blocking=False):
            return
        try:
            now = self._clock()
            seconds = now - self._looked_at
            if seconds < LOOK_S:
                return
            before, self._seen, self._looked_at = self._seen, self._work(), now
            pairs = [(before[key], work) for key, work in self._seen.items() if key in before]
            if pairs and seconds < STALE_S:
                with self._lock:
                    self._limit.see(_load(pairs, seconds=seconds, ours=self._in_flight))
            self._show()
        finally:
            self._looking.release()

    def _work(self) -> Mapping[tuple[str, str], Work]:
        """What each server that answers has done since its start."""
        found = {}
        for server in self._servers():
            try:
                state = server.state(timeout_s=LOOK_TIMEOUT_S)
            except EndpointError:
                continue
            if state.work is not None:
                found[server.url, state.epoch] = state.work
        return found

    def _show(self) -> None:
        if self._limit is not None:
            metrics.ASKING_LIMIT.set(self.limit)


def _ended() -> bool:
    return False


def _failed(future: Future[Result]) -> bool:
    return future.exception() is not None or isinstance(future.result(), Exception)


def _load(pairs: Sequence[tuple[Work, Work]], *, seconds: float, ours: int) -> Load:
    return Load(
        seconds=seconds,
        tokens=sum(after.tokens - before.tokens for before, after in pairs),
        ours=ours,
        users=sum(after.users for _, after in pairs),
        users_seconds=sum(after.users_seconds - before.users_seconds for before, after in pairs),
        users_tokens=sum(after.users_tokens - before.users_tokens for before, after in pairs),
    )
