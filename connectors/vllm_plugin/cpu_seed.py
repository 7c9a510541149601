"""Keeps vLLM 0.32's engine alive on CPU when a request names a `seed`.

vLLM draws a token for each request of a batch, also for one whose prompt is read only in part. It takes that draw back
by the offset of the request's generator. A generator on CPU has no offset: the engine ends, and every request with it.
Here the draw is taken back by the generator's state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def register() -> None:
    """Change vLLM's model runner for CPU, unless a CPU generator has an offset. Call it on CPU only."""
    if has_offset():
        return
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner  # noqa: PLC0415 - only importable inside vLLM

    CPUModelRunner._sample = taking_back(CPUModelRunner._sample)  # noqa: SLF001
    CPUModelRunner._bookkeeping_sync = without_offsets(CPUModelRunner._bookkeeping_sync)  # noqa: SLF001


def has_offset() -> bool:
    """Whether PyTorch's CPU generator has an offset."""
    try:
        torch.Generator().get_offset()
    except RuntimeError:
        return False
    return True


def taking_back(sample: Callable[..., Any]) -> Callable[..., Any]:
    """`sample`, after which the generators of requests that are read in part are as they were."""

    def _sample(runner: Any, *args: Any, **settings: Any) -> Any:
        read_in_part = _read_in_part(runner)
        kept = [(one, one.get_state()) for index, one in runner.input_batch.generators.items() if index in read_in_part]
        drawn = sample(runner, *args, **settings)
        for generator, state in kept:
            generator.set_state(state)
        return drawn

    return _sample


def without_offsets(bookkeeping: Callable[..., Any]) -> Callable[..., Any]:
    """`bookkeeping`, which does not see the generators whose offsets it would set."""

    def _bookkeeping_sync(runner: Any, *args: Any, **settings: Any) -> Any:
        batch, read_in_part = runner.input_batch, _read_in_part(runner)
        generators = batch.generators
        batch.generators = {index: one for index, one in generators.items() if index not in read_in_part}
        try:
            return bookkeeping(runner, *args, **settings)
        finally:
            batch.generators = generators

    return _bookkeeping_sync


def _read_in_part(runner: Any) -> set[int]:
    """Places in the batch of the requests whose prompt is not read to its end."""
    mask = runner.discard_request_mask.np[: runner.input_batch.num_reqs]
    return set(mask.nonzero()[0].tolist())
