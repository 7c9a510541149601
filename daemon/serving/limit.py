"""How many questions may be in flight at the model servers: found by trying, and less while users ask.

Without users, the limit climbs while the servers' throughput grows with it: it doubles until that stops, then tries
one step more from time to time. With users, it falls to the floor at once, where their pace is measured, and rises
by one while their answers take at most `tolerance` times as long; otherwise it shrinks by the ratio of the two paces.
That is the gradient of Netflix's concurrency-limits (github.com/Netflix/concurrency-limits, Gradient2Limit), measured
on the users' answers instead of our own: in a batch, ours always take longer when there are more of them.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_S = 1.0
WINDOW_TOKENS = 32
"""A window ends when this number of tokens per question in flight was computed: prompts make shorter ones uneven."""
USERS_TOKENS = 32
"""A window beside users ends when their answers have this number of tokens."""
DOUBLED = 1.2
"""The throughput grows with a doubled limit if it rises by this factor at least ..."""
STEPPED = 1.03
"""... and with a limit that is one step higher, by this one."""
STEP = 0.5
REST_WINDOWS = 4
"""Windows from a step that did not help to the next one."""
USERS_AWAY_S = 10.0
"""Users are away when none has asked for this long."""
LARGEST_CUT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What happened at the servers since the last look."""

    seconds: float
    tokens: int
    """Of prompts and answers, ours and users'."""
    ours: int
    """Our questions in flight now."""
    users: int = 0
    """Users' requests in flight now."""
    users_seconds: float = 0.0
    """What the users' answers that ended took together, and their tokens."""
    users_tokens: int = 0

    @property
    def has_users(self) -> bool:
        return bool(self.users or self.users_tokens or self.users_seconds)


class AdaptiveLimit:
    """The limit, from `floor` to `ceiling`. Not thread-safe. Begins at the floor."""

    def __init__(self, *, floor: int, ceiling: int, tolerance: float) -> None:
        self._floor = floor
        self.ceiling = ceiling
        self._tolerance = tolerance
        self._limit = float(floor)
        self._before = 0.0, 0.0
        """The limit before the last rise, and its throughput. (0, 0): none is known."""
        self._doubling = True
        self._rest = 0
        self.users = False
        """Whether users ask."""
        self._quiet_s = 0.0
        self._pace: float | None = None
        """Seconds per token of users' answers while we ask least; None: not measured yet."""
        self._begin()

    @property
    def value(self) -> int:
        return int(self._limit)

    def within(self, count: int) -> int:
        """The count, or the nearest one between floor and ceiling."""
        return min(max(count, self._floor), self.ceiling)

    def see(self, load: Load) -> None:
        """Take note of a look at the servers."""
        if load.has_users:
            self._quiet_s = 0.0
            if not self.users:
                self._make_way()
        elif self.users:
            self._quiet_s += load.seconds
            if self._quiet_s >= USERS_AWAY_S:
                self.users = False
                self._double_again()
        if load.ours > self.value and self.users:
            self._begin()  # questions of a higher limit still run: what users see now says nothing of this one
            return
        self._add(load)
        if self.users:
            self._beside_users()
        elif self._seconds >= WINDOW_S and self._tokens >= WINDOW_TOKENS * self._limit:
            self._climb()

    def failed(self) -> None:
        """A server did not answer a question: ask half as many."""
        self._set(self._limit / 2)
        self._double_again()

    def _begin(self) -> None:
        self._seconds = self._users_seconds = 0.0
        self._tokens = self._users_tokens = 0
        self._full = True

    def _add(self, load: Load) -> None:
        self._seconds += load.seconds
        self._tokens += load.tokens
        self._users_seconds += load.users_seconds
        self._users_tokens += load.users_tokens
        self._full = self._full and load.ours >= self.value

    def _set(self, limit: float) -> None:
        self._limit = min(max(limit, float(self._floor)), float(self.ceiling))

    def _make_way(self) -> None:
        self.users, self._pace = True, None
        self._set(self._floor)
        self._begin()

    def _double_again(self) -> None:
        self._before, self._doubling, self._rest = (0.0, 0.0), True, 0
        self._begin()

    def _beside_users(self) -> None:
        if self._seconds < WINDOW_S or self._users_tokens < USERS_TOKENS:
            return
        pace, full = self._users_seconds / self._users_tokens, self._full
        self._begin()
        if self._pace is None or pace < self._pace:
            self._pace = pace
        elif self.value == self._floor:
            self._pace += 0.3 * (pace - self._pace)  # users themselves may ask more than before
        if pace > self._tolerance * self._pace:
            self._set(self._limit * max(LARGEST_CUT, self._tolerance * self._pace / pace))
        elif full:
            self._set(self._limit + 1)

    def _climb(self) -> None:
        """Judge the last rise by the throughput; then rise again, or take it back and rest."""
        throughput, full = self._tokens / self._seconds, self._full
        self._begin()
        if not full:
            return  # too few questions to tell
        limit, known = self._before
        if known and limit < self._limit and throughput < known * (DOUBLED if self._doubling else STEPPED):
            self._doubling, self._rest = False, REST_WINDOWS
            if throughput < known * STEPPED:
                self._set(limit)
            self._before = self._limit, max(known, throughput)
            return
        if self._rest:
            self._rest -= 1
            return
        self._before = self._limit, throughput
        self._set(self._limit * 2 if self._doubling else self._limit + max(1.0, self._limit * STEP))
