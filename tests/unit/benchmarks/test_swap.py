"""The swap benchmark finds what it looks for: failed, mixed and stale answers."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.records import Adapter, AdapterState, utcnow
from tests.benchmarks.swap import Block, Live, _memory, compared, fault
from tests.benchmarks.traffic import Sample


def _live(generation: int, word: str, since: float, until: float = float("inf")) -> Live:
    adapter = Adapter(
        generation=generation,
        name=f"aligned-g{generation:06d}",
        state=AdapterState.LIVE,
        run_id=1,
        created_at=utcnow(),
        updated_at=utcnow(),
    )
    return Live(adapter=adapter, word=word, since=since, until=until)


HISTORY = [_live(1, "red", 0.0, until=10.0), _live(2, "blue", 9.0)]
GOOD: dict[str, Any] = {
    "streamed": True, "sent_at": 5.0, "first_at": 6.0, "done_at": 20.0, "generation": 1,
    "models": {"aligned-g000001"}, "text": " red red red",
}  # fmt: skip


def test_an_answer_of_one_generation_that_was_live_when_it_began_is_good_however_long_it_takes() -> None:
    assert fault(Sample(**GOOD), HISTORY) is None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"error": "HTTPStatusError: 503"}, "failed"),
        ({"text": " red blue blue"}, "mixed"),
        ({"text": " blue blue blue"}, "mixed"),
        ({"text": ""}, "mixed"),
        ({"models": {"aligned-g000001", "aligned-g000002"}}, "mixed"),
        ({"generation": 2}, "mixed"),
        ({"generation": None}, "mixed"),
        ({"sent_at": 11.0, "first_at": 12.0}, "stale"),
        ({"generation": 2, "models": {"aligned-g000002"}, "text": " blue"}, "stale"),
    ],
)
def test_other_answers_are_not(change: dict[str, Any], found: str) -> None:
    assert fault(Sample(**{**GOOD, **change}), HISTORY) == found


def test_memory_that_grows_with_swaps_is_told_from_what_grows_anyway() -> None:
    sizes = [100, 110, 110, 120, 121, 125, 126, 130]  # without and with swaps in turn; settled after the fourth
    blocks = [
        Block(swapping=bool(number % 2), begun=0.0, ended=1.0, cpu_s=0.0, memory=size)
        for number, size in enumerate(sizes)
    ]
    assert _memory(blocks) == {
        "settled_bytes": 120,
        "growth_with_swaps_bytes": 8,
        "growth_without_swaps_bytes": 2,
        "after_swaps_bytes": [110, 120, 125, 130],
    }


@pytest.mark.parametrize(("slower", "within"), [(1.0, True), (1.3, False)])
def test_swaps_are_compared_with_the_noise_between_blocks_without_them(slower: float, *, within: bool) -> None:
    kinds = [(False, False), (False, True), (True, False)]
    blocks = [
        Block(swapping=swapping, again=again, begun=100.0 * number, ended=100.0 * number + 100, cpu_s=0.0, memory=1)
        for number, (swapping, again) in enumerate(kinds)
    ]
    samples = [
        Sample(streamed=True, sent_at=sent, done_at=sent + (1.0 + sent % 7 / 100) * (slower if sent >= 200 else 1.0))
        for sent in range(300)
    ]
    found = compared(samples, blocks, lambda sample: sample.seconds)
    assert found["within"] is within
    assert found["p99_swaps"]["ratio"] == pytest.approx(slower, abs=0.01)
    assert found["p99_no_swaps"]["low"] <= found["p99_no_swaps"]["ratio"] == 1.0 <= found["p99_no_swaps"]["high"]
    assert (found["without_swaps"]["count"], found["with_swaps"]["count"]) == (200, 100)
