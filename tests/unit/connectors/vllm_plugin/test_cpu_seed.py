"""A draw that vLLM discards leaves no trace in a generator on CPU, and no offset is asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from connectors.vllm_plugin import cpu_seed

READ, READ_IN_PART = 0, 1


def _runner() -> Any:
    """A batch with two seeded requests, of which the second is read in part."""
    generators = {place: torch.Generator().manual_seed(7) for place in (READ, READ_IN_PART)}
    return SimpleNamespace(
        input_batch=SimpleNamespace(num_reqs=2, generators=generators),
        discard_request_mask=SimpleNamespace(np=np.array([False, True, True])),  # the last place is of no request
    )


def _draw(runner: Any) -> list[float]:
    return [float(torch.rand(1, generator=one)) for one in runner.input_batch.generators.values()]


def _bookkeeping(runner: Any) -> str:
    """As in vLLM 0.32."""
    for place in runner.discard_request_mask.np[: runner.input_batch.num_reqs].nonzero()[0]:
        generator = runner.input_batch.generators.get(int(place))
        if generator is not None:
            generator.set_offset(generator.get_offset() - 4)
    return "kept"


def test_this_torch_needs_the_change() -> None:
    assert not cpu_seed.has_offset()


def test_only_the_draws_of_requests_that_are_read_in_part_are_taken_back() -> None:
    runner, sample = _runner(), cpu_seed.taking_back(_draw)
    first, second = sample(runner), sample(runner)
    assert first[READ_IN_PART] == second[READ_IN_PART]
    assert first[READ] != second[READ]


def test_bookkeeping_asks_no_generator_for_its_offset() -> None:
    runner = _runner()
    generators = runner.input_batch.generators
    assert cpu_seed.without_offsets(_bookkeeping)(runner) == "kept"
    assert runner.input_batch.generators is generators
