"""The limit of questions against a simulated server, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from daemon.serving.limit import USERS_AWAY_S, AdaptiveLimit, Load

LOOK_S = 0.5
FLOOR, CEILING, TOLERANCE = 2, 64, 1.5


@dataclass
class Server:
    """Computes in batches: a step of `count` requests takes `fixed_s`, and `each_s` more per request above `width`.

    Up to `width` requests the throughput grows with their number.
    """

    fixed_s: float = 0.02
    width: int = 24
    each_s: float = 0.02 / 24
    slowing_s: float = 0.0
    """What each request adds to a step below `width`, too."""

    def step_s(self, count: int) -> float:
        return self.fixed_s + self.slowing_s * count + self.each_s * max(0, count - self.width)

    def throughput(self, count: int) -> float:
        return count / self.step_s(count)


def limit_of(**changes: float) -> AdaptiveLimit:
    return AdaptiveLimit(**{"floor": FLOOR, "ceiling": CEILING, "tolerance": TOLERANCE, **changes})  # type: ignore[arg-type]


def let(limit: AdaptiveLimit, server: Server, *, seconds: float, users: int = 0, demand: int = 10_000) -> list[int]:
    """Ask as many as the limit allows, beside the users; the limit after each look."""
    values = []
    for _ in range(int(seconds / LOOK_S)):
        ours = min(limit.value, demand)
        step_s = server.step_s(ours + users)
        tokens = int((ours + users) * LOOK_S / step_s)
        answered = int(users * LOOK_S / step_s)
        limit.see(
            Load(
                seconds=LOOK_S,
                tokens=tokens,
                ours=ours,
                users=users,
                users_seconds=answered * step_s,
                users_tokens=answered,
            )
        )
        values.append(limit.value)
    return values


def test_it_begins_at_the_floor() -> None:
    assert limit_of().value == FLOOR


@pytest.mark.parametrize("width", [4, 13, 24, 50])
def test_it_grows_until_the_server_is_saturated(width: int) -> None:
    server = Server(width=width, each_s=0.02 / width)
    limit = limit_of()
    values = let(limit, server, seconds=120)
    best = max(server.throughput(count) for count in range(1, CEILING + 1))
    late = values[len(values) // 2 :]
    assert sum(map(server.throughput, late)) / len(late) >= 0.9 * best
    assert max(late) <= 2.5 * width  # more would only make everything wait


def test_one_slow_moment_while_it_grows_does_not_hold_it_down() -> None:
    limit = limit_of()
    let(limit, Server(), seconds=2)
    let(limit, Server(fixed_s=0.2), seconds=6)  # another process takes the processor
    assert limit.value <= 8
    assert let(limit, Server(), seconds=40)[-1] >= 20


def test_it_ends_at_the_ceiling() -> None:
    assert max(let(limit_of(ceiling=16), Server(width=200), seconds=60)) == 16


def test_it_does_not_grow_while_there_are_fewer_questions() -> None:
    assert set(let(limit_of(), Server(), seconds=30, demand=1)) == {FLOOR}


def test_it_follows_a_server_that_can_take_more_than_before() -> None:
    limit = limit_of()
    narrow = Server(width=4, each_s=0.005)
    before = let(limit, narrow, seconds=60)[-1]
    assert let(limit, Server(width=40, each_s=0.0005), seconds=240)[-1] > 2 * before


def test_users_who_come_get_the_server_at_once() -> None:
    limit = limit_of()
    let(limit, Server(), seconds=60)
    assert limit.value > FLOOR
    assert let(limit, Server(), seconds=LOOK_S, users=1) == [FLOOR]
    assert limit.users


def test_beside_users_it_rises_only_while_they_hardly_notice() -> None:
    server = Server(slowing_s=0.002)  # each request makes all others slower by a tenth of a step
    limit = limit_of()
    let(limit, server, seconds=60)
    values = let(limit, server, seconds=120, users=2)
    alone, crowd = server.step_s(2 + FLOOR), server.step_s(2 + max(values))
    assert crowd <= 1.1 * TOLERANCE * alone
    assert FLOOR < values[-1] < let(limit_of(), server, seconds=60)[-1]


def test_it_shrinks_when_users_become_slower() -> None:
    limit = limit_of()
    before = let(limit, Server(slowing_s=0.001), seconds=60, users=2)[-1]
    assert let(limit, Server(slowing_s=0.004), seconds=20, users=2)[-1] < before


def test_it_climbs_again_when_users_have_left() -> None:
    limit = limit_of()
    usual = let(limit, Server(), seconds=60)[-1]
    let(limit, Server(slowing_s=0.01), seconds=30, users=4)
    assert limit.value < usual / 2
    let(limit, Server(), seconds=USERS_AWAY_S - LOOK_S)
    assert limit.users
    assert let(limit, Server(), seconds=60)[-1] >= usual / 1.5
    assert not limit.users


def test_users_who_write_rarely_keep_it_at_the_floor() -> None:
    limit = limit_of()
    for _ in range(20):
        limit.see(Load(seconds=LOOK_S, tokens=100, ours=limit.value, users=1))
        limit.see(Load(seconds=LOOK_S, tokens=100, ours=limit.value, users_seconds=1.0, users_tokens=1))
        assert limit.value == FLOOR


def test_it_is_never_below_the_floor() -> None:
    limit = limit_of()
    for users in (0, 3, 0, 40):
        values = let(limit, Server(slowing_s=0.05), seconds=30, users=users)
        assert min(values) >= FLOOR
    for _ in range(20):
        limit.failed()
    assert limit.value == FLOOR


def test_a_failure_halves_it_and_it_comes_back() -> None:
    limit = limit_of()
    before = let(limit, Server(), seconds=60)[-1]
    limit.failed()
    assert limit.value == before // 2
    assert let(limit, Server(), seconds=60)[-1] >= before / 1.5


def test_one_failure_says_nothing_about_users() -> None:
    limit = limit_of()
    let(limit, Server(), seconds=5, users=1)
    limit.failed()
    assert limit.users
