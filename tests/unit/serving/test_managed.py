"""When a managed server is given up, by what was observed of it.

With processes: tests/faults/test_vllm_server_faults.py.
"""

from __future__ import annotations

from daemon.serving.managed import (
    EMPTY_LIMIT,
    PROBE_INTERVAL_S,
    UNANSWERED_LIMIT_S,
    UNREADY_LIMIT_S,
    ServerHealth,
)
from daemon.serving.process import ServerProcess


def test_a_start_that_takes_too_long_is_given_up() -> None:
    watch = _watch(now=0, age_s=0)
    assert watch.unready("loading weights", 12) == ("vLLM starting: loading weights, 10 s", False)
    assert watch.unready("loading weights", 101) == ("vLLM was not ready after 100 s (last: loading weights)", True)


def test_an_adopted_server_that_is_late_gets_a_minute_more() -> None:
    watch = _watch(now=0, age_s=500, adopted=True)
    assert not watch.unready("loading weights", UNREADY_LIMIT_S - 1)[1]
    assert watch.unready("loading weights", UNREADY_LIMIT_S + 1)[1]


def test_a_short_failure_of_the_health_check_is_waited_out() -> None:
    watch = _watch(now=0)
    watch.ready(10)
    assert not watch.unready("", 10 + UNREADY_LIMIT_S - 1)[1]
    watch.ready(100)
    assert not watch.unready("", 100 + UNREADY_LIMIT_S - 1)[1]
    assert watch.unready("", 100 + UNREADY_LIMIT_S + 1)[1]


def test_a_server_that_answered_and_falls_silent_is_given_up() -> None:
    watch = _watch(now=0)
    watch.ready(0)
    assert watch.silent("no answer in time", UNANSWERED_LIMIT_S - 1) is None
    assert watch.answered("one two", UNANSWERED_LIMIT_S) is None
    assert watch.silent("no answer in time", UNANSWERED_LIMIT_S + 10) is None
    assert "no answer in time" in str(watch.silent("no answer in time", 2 * UNANSWERED_LIMIT_S + 1))


def test_empty_answers_after_good_ones_mean_a_poisoned_engine() -> None:
    watch = _watch(now=0)
    watch.answered("one two", 0)
    problems = [watch.answered(" ", second) for second in range(1, EMPTY_LIMIT + 1)]
    assert problems[:-1] == [None] * (EMPTY_LIMIT - 1)
    assert "poisoned" in str(problems[-1])


def test_a_model_that_never_answers_the_probe_is_left_alone_but_not_when_adopted() -> None:
    fresh, adopted = _watch(now=0), _watch(now=0, adopted=True)
    assert [fresh.answered("", second) for second in range(5)] == [None] * 5
    assert any(adopted.answered("", second) for second in range(EMPTY_LIMIT))


def test_probes_are_sent_at_intervals() -> None:
    watch = _watch(now=100)
    assert watch.probe_due(100)
    watch.answered("one", 100)
    assert not watch.probe_due(100 + PROBE_INTERVAL_S - 1)
    assert watch.probe_due(100 + PROBE_INTERVAL_S)


class _Process(ServerProcess):
    """A process of a given age, without a real process."""

    def __init__(self, age_s: float, *, adopted: bool) -> None:
        self._age_s = age_s
        self._is_adopted = adopted

    @property
    def adopted(self) -> bool:
        return self._is_adopted

    def age_s(self) -> float:
        return self._age_s


def _watch(*, now: float, age_s: float = 0, adopted: bool = False) -> ServerHealth:
    return ServerHealth(_Process(age_s, adopted=adopted), start_timeout_s=100, now=now)
