"""The swap benchmark finds what it looks for: failed, mixed and stale answers."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.records import Adapter, AdapterState, utcnow
from tests.benchmarks.swap import Block, Live, _memory, fault
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
