"""Corrects the CPU LoRA of vLLM 0.32, where a request without an adapter can be answered by one (#48421, #49656).

The stock functions look weights up by `stacked[indices]`. Index -1 means "no adapter" but selects the LAST slot there:
base requests that share a batch with adapter requests are computed with an adapter. The functions here make one matrix
product per adapter in the batch and leave rows of index -1 alone, which is also faster (1.4 to 2 times, by itself).

vLLM calls `register` in each of its processes (entry point `erratad_cpu_lora` in the group `vllm.general_plugins`).
It does nothing where the stock functions are right: `is_correct` asks them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import torch

PATCHED = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
"""vLLM 0.32's `sgmv_*` (prefill) call these three, so they are corrected too."""

Rows: TypeAlias = slice | torch.Tensor


class LoraOps(Protocol):
    """The three functions of `vllm.lora.ops.torch_ops.lora_ops` that matter; see there for the meaning of arguments."""

    bgmv_shrink: Any
    bgmv_expand: Any
    bgmv_expand_slice: Any


def register() -> None:
    """Replace the stock functions on CPU where they mix up base and adapter rows."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - only importable inside vLLM

    if not current_platform.is_cpu():
        return
    from vllm.lora.ops import torch_ops  # noqa: PLC0415
    from vllm.lora.ops.torch_ops import lora_ops  # noqa: PLC0415
    from vllm.lora.punica_wrapper import punica_cpu  # noqa: PLC0415

    if is_correct(lora_ops):
        return
    for module in (lora_ops, torch_ops, punica_cpu):  # the latter two hold the functions under their own names
        for name in PATCHED:
            setattr(module, name, globals()[name])


def is_correct(ops: LoraOps) -> bool:
    """Whether a row of the base model stays as it is beside a row of an adapter in the last slot."""
    down, up = torch.ones(2, 1, 1, 3), torch.ones(2, 1, 3, 1)
    indices = torch.tensor([1, -1])
    narrow, wide = torch.zeros(2, 1), torch.zeros(2, 3)
    ops.bgmv_shrink(torch.ones(2, 3), down, narrow, indices, 1.0)
    ops.bgmv_expand_slice(narrow, up, wide, indices, 0, 3)
    return bool(wide.tolist() == [[3.0] * 3, [0.0] * 3])


def bgmv_shrink(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    scaling: float = 1.0,
) -> None:
    for rows, product in _products(inputs, lora_b_weights, output_tensor, lora_indices_tensor):
        output_tensor[rows, : product.shape[1]] = product.mul_(scaling)


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
    for rows, product in _products(inputs, lora_b_weights, output_tensor, lora_indices_tensor):
        if add_inputs:
            target[rows] += product[:, :slice_size]
        else:
            target[rows] = product[:, :slice_size]


def _products(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, indices: torch.Tensor
) -> Iterator[tuple[Rows, torch.Tensor]]:
    """For each adapter in the batch its rows and their product with its weights, in the output's type as in stock."""
    for slot, rows in _groups(indices):
        weight = weights[slot].view(weights.shape[-2:]).to(output.dtype)
        yield rows, inputs[rows].to(output.dtype) @ weight.T


def _groups(indices: torch.Tensor) -> list[tuple[int, Rows]]:
    slots: list[int] = indices.unique().tolist()
    if len(slots) == 1 and slots[0] >= 0:
        return [(slots[0], slice(0, indices.numel()))]
    return [(slot, (indices == slot).nonzero().squeeze(1)) for slot in slots if slot >= 0]
