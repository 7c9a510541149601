"""Fixes LoRA on CPU in vLLM 0.32, where an adapter can answer a request to the base model (#48421, #49656).

vLLM's functions look up weights by `stacked[indices]`. Index -1 means "no adapter" but selects the LAST slot. So base
requests in one batch with adapter requests are computed with an adapter. The functions here compute one matrix product
per adapter in the batch and skip rows with index -1, which is also faster (docs/results.md). Most of the work is in
linear layers: `add_lora_linear` groups the rows once for all products, vLLM's function once per product.

vLLM calls `register` in each of its processes (entry point `erratad_cpu_lora` in the group `vllm.general_plugins`).
It changes nothing if vLLM's functions are correct (`is_correct`). It also registers the other change for CPU,
`connectors.vllm_plugin.cpu_seed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import torch

from connectors.vllm_plugin import cpu_seed

PATCHED = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
"""vLLM 0.32's `sgmv_*` (prefill) call these three, so they are corrected too."""

SMALL_BATCH = 32
"""Up to this many rows, computing all of them is cheaper than selecting an adapter's rows (2 cores, float32)."""


class LoraOps(Protocol):
    """The functions that `vllm.lora.ops.torch_ops.lora_ops` must have; their arguments are explained there."""

    bgmv_shrink: Any
    bgmv_expand: Any
    bgmv_expand_slice: Any


def register() -> None:
    """On CPU, replace vLLM's functions if they mix up base and adapter rows, and keep its engine from ending."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - only importable inside vLLM

    if not current_platform.is_cpu():
        return
    cpu_seed.register()
    from vllm.lora.ops import torch_ops  # noqa: PLC0415
    from vllm.lora.ops.torch_ops import lora_ops  # noqa: PLC0415
    from vllm.lora.punica_wrapper import punica_cpu  # noqa: PLC0415

    if is_correct(lora_ops):
        return
    for module in (lora_ops, torch_ops, punica_cpu):  # the latter two hold the functions under their own names
        for name in PATCHED:
            setattr(module, name, globals()[name])
    punica_cpu.PunicaWrapperCPU.add_lora_linear = add_lora_linear


def is_correct(ops: LoraOps) -> bool:
    """Whether a base row is left unchanged in a batch with a row of the adapter in the last slot."""
    down, up = torch.ones(2, 1, 1, 3), torch.ones(2, 1, 3, 1)
    indices = torch.tensor([1, -1])
    narrow, wide = torch.zeros(2, 1), torch.zeros(2, 3)
    ops.bgmv_shrink(torch.ones(2, 3), down, narrow, indices, 1.0)
    ops.bgmv_expand_slice(narrow, up, wide, indices, 0, 3)
    return bool(wide.tolist() == [[3.0] * 3, [0.0] * 3])


class Batch(Protocol):
    """vLLM's `PunicaWrapperCPU`: maps each token of the batch to its adapter."""

    @property
    def token_lora_indices(self) -> torch.Tensor: ...


def add_lora_linear(  # noqa: PLR0917 - vLLM's signature
    batch: Batch,
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a_stacked: Sequence[torch.Tensor],
    lora_b_stacked: Sequence[torch.Tensor],
    scale: float,
    output_slices: Sequence[int],
    **_: object,
) -> None:
    """Add each adapter's product to its rows of `y`, slice by slice; float32 between the matrices, as in vLLM."""
    groups = _groups(batch.token_lora_indices)
    inputs, outputs, offset = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1]), 0
    for down, up, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
        target = outputs[:, offset : offset + width]
        for slot, rows in groups:
            narrow = _product(inputs, rows, down[slot], torch.float32)
            if scale != 1.0:  # vLLM has scaled the weights already
                narrow.mul_(scale)
            rows.add_product(target, narrow.to(y.dtype), _matrix(up[slot], y.dtype))
        offset += width


def bgmv_shrink(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    scaling: float = 1.0,
) -> None:
    width = lora_b_weights.shape[-2]
    for slot, rows in _groups(lora_indices_tensor):
        product = _product(inputs, rows, lora_b_weights[slot], output_tensor.dtype)
        rows.put(output_tensor[:, :width], product.mul_(scaling))


def bgmv_expand(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    add_inputs: bool = True,  # noqa: FBT001, FBT002 - vLLM's signature
) -> None:
    width = min(lora_b_weights.shape[-2], output_tensor.shape[1])
    bgmv_expand_slice(inputs, lora_b_weights, output_tensor, lora_indices_tensor, 0, width, add_inputs)


def bgmv_expand_slice(  # noqa: PLR0917 - vLLM's signature
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,  # noqa: FBT001, FBT002 - vLLM's signature
) -> None:
    target = output_tensor[:, slice_offset : slice_offset + slice_size]
    for slot, rows in _groups(lora_indices_tensor):
        product = _product(inputs, rows, lora_b_weights[slot], output_tensor.dtype)[:, :slice_size]
        if add_inputs:
            rows.add(target, product)
        else:
            rows.put(target, product)


def _product(inputs: torch.Tensor, rows: Rows, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Computed in the output's dtype, as in vLLM."""
    return rows.take(inputs).to(dtype) @ _matrix(weight, dtype)


def _matrix(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return weight.view(weight.shape[-2:]).to(dtype).T


class Rows(Protocol):
    """The rows of a batch that one adapter computes."""

    def take(self, values: torch.Tensor) -> torch.Tensor: ...

    def put(self, target: torch.Tensor, values: torch.Tensor) -> None: ...

    def add(self, target: torch.Tensor, values: torch.Tensor) -> None: ...

    def add_product(self, target: torch.Tensor, values: torch.Tensor, matrix: torch.Tensor) -> None:
        """Add `values @ matrix`; `values` has one row for each row of `take`."""
        self.add(target, values @ matrix)


class FirstRows(Rows):
    """The whole batch; a target may have padding rows after it. No row is selected."""

    def __init__(self, count: int) -> None:
        self._count = count

    def take(self, values: torch.Tensor) -> torch.Tensor:
        return values[: self._count]

    def put(self, target: torch.Tensor, values: torch.Tensor) -> None:
        target[: self._count].copy_(values)

    def add(self, target: torch.Tensor, values: torch.Tensor) -> None:
        target[: self._count].add_(values)

    def add_product(self, target: torch.Tensor, values: torch.Tensor, matrix: torch.Tensor) -> None:
        target[: self._count].addmm_(values, matrix)


class SomeRowsOfFew(Rows):
    """Some rows of a small batch: computing all rows and dropping the rest costs half as much as selecting rows."""

    def __init__(self, chosen: torch.Tensor) -> None:
        self._count = chosen.numel()
        self._column = chosen.unsqueeze(1)

    def take(self, values: torch.Tensor) -> torch.Tensor:
        return values[: self._count]

    def put(self, target: torch.Tensor, values: torch.Tensor) -> None:
        target = target[: self._count]
        torch.where(self._column, values, target, out=target)

    def add(self, target: torch.Tensor, values: torch.Tensor) -> None:
        target[: self._count].add_(values.masked_fill_(~self._column, 0.0))


class SomeRowsOfMany(Rows):
    """Some rows of a large batch (prefill): only the adapter's rows are computed."""

    def __init__(self, chosen: torch.Tensor) -> None:
        self._rows = chosen.nonzero().squeeze(1)

    def take(self, values: torch.Tensor) -> torch.Tensor:
        return values[self._rows]

    def put(self, target: torch.Tensor, values: torch.Tensor) -> None:
        target[self._rows] = values

    def add(self, target: torch.Tensor, values: torch.Tensor) -> None:
        target.index_add_(0, self._rows, values)


Groups: TypeAlias = list[tuple[int, Rows]]
_latest: tuple[torch.Tensor, int, Groups] | None = None


def _groups(indices: torch.Tensor) -> Groups:
    """The slots in use and their rows. Cached: one step of the engine asks some hundred times for the same indices.

    The cache holds the latest indices, so no other tensor can get their address; a write to them raises their version.
    """
    global _latest  # noqa: PLW0603 - the replaced functions have no object to hold it; vLLM's worker has one thread
    if _latest is not None and _is_same(indices, *_latest[:2]):
        return _latest[2]
    groups = _grouped(indices)
    _latest = None if indices.is_inference() else (indices, indices._version, groups)  # noqa: SLF001 - autograd's own
    return groups


def _is_same(indices: torch.Tensor, held: torch.Tensor, version: int) -> bool:
    return (
        indices.data_ptr() == held.data_ptr()
        and indices.shape == held.shape
        and indices.stride() == held.stride()
        and not indices.is_inference()
        and indices._version == version  # noqa: SLF001
    )


def _grouped(indices: torch.Tensor) -> Groups:
    slots: list[int] = indices.unique().tolist()
    if len(slots) == 1 and slots[0] >= 0:
        return [(slots[0], FirstRows(indices.numel()))]
    some = SomeRowsOfFew if indices.numel() <= SMALL_BATCH else SomeRowsOfMany
    return [(slot, some(indices == slot)) for slot in slots if slot >= 0]
