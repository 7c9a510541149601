"""The fixed CPU LoRA compared with the one of the installed vLLM, on tensors."""

from __future__ import annotations

import importlib.util
from types import ModuleType, SimpleNamespace

import pytest
import torch

from connectors.vllm_plugin import cpu_lora as ours
from tests.fixtures.required import unavailable

TOKENS, NARROW, RANK, SLOTS = 7, 24, 4, 3
WIDTHS = (16, 8)
MIXED = [2, -1, 0, 0, -1, 2, 1]


def _case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Inputs, down weights, one stack of up weights per slice, and the base model's output."""
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn(TOKENS, NARROW, generator=rng).bfloat16()
    down = torch.randn(SLOTS, 1, RANK, NARROW, generator=rng).bfloat16()
    ups = [torch.randn(SLOTS, 1, width, RANK, generator=rng).bfloat16() for width in WIDTHS]
    return inputs, down, ups, torch.randn(TOKENS, sum(WIDTHS), generator=rng).bfloat16()


def _apply(inputs: torch.Tensor, base: torch.Tensor, indices: list[int]) -> torch.Tensor:
    """The result of `PunicaWrapperCPU.add_lora_linear`: shrink into a float32 buffer, expand per slice."""
    _, down, ups, _ = _case()
    output, where, offset = base.clone(), torch.tensor(indices), 0
    for up in ups:
        buffer = torch.zeros(len(indices), RANK)
        ours.bgmv_shrink(inputs, down, buffer, where, 0.5)
        ours.bgmv_expand_slice(buffer, up, output, where, offset, up.shape[-2])
        offset += up.shape[-2]
    return output


def _linear(inputs: torch.Tensor, base: torch.Tensor, indices: list[int]) -> torch.Tensor:
    _, down, ups, _ = _case()
    output, batch = base.clone(), SimpleNamespace(token_lora_indices=torch.tensor(indices))
    ours.add_lora_linear(batch, output, inputs, [down, down], ups, 0.5, WIDTHS, buffer=None)
    return output


@pytest.mark.parametrize("indices", [[1] * TOKENS, [-1] * TOKENS, MIXED])
@pytest.mark.parametrize("small_batch", [ours.SMALL_BATCH, 0])
def test_a_linear_layer_in_one_go_is_what_its_parts_are(
    indices: list[int], small_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "SMALL_BATCH", small_batch)
    inputs, _, _, base = _case()
    torch.testing.assert_close(_linear(inputs, base, indices), _apply(inputs, base, indices), atol=0.05, rtol=0.02)


def test_rows_below_the_batch_in_a_padded_output_stay_as_they_are() -> None:
    inputs, _, _, base = _case()
    for indices in ([1] * 5, [1, -1, 1, 0, 1]):
        output = _linear(inputs, base, indices)
        assert torch.equal(output[5:], base[5:])
        assert not torch.equal(output[:5], base[:5])


def test_a_mixed_batch_equals_the_rows_computed_apart() -> None:
    inputs, _, _, base = _case()
    mixed = _apply(inputs, base, MIXED)
    for row, slot in enumerate(MIXED):
        alone = _apply(inputs[row : row + 1], base[row : row + 1], [slot])
        torch.testing.assert_close(mixed[row : row + 1], alone)


def test_rows_without_an_adapter_stay_as_they_are_and_others_change() -> None:
    inputs, _, _, base = _case()
    changed = (_apply(inputs, base, MIXED) != base).any(dim=1).tolist()
    assert changed == [slot >= 0 for slot in MIXED]


@pytest.mark.parametrize("indices", [[1] * TOKENS, [-1] * TOKENS, MIXED])
def test_every_row_is_base_plus_its_adapters_product(indices: list[int]) -> None:
    inputs, down, ups, base = _case()
    expected = base.float()
    for row, slot in enumerate(indices):
        if slot >= 0:
            narrow = 0.5 * inputs[row].float() @ down[slot, 0].float().T
            expected[row] += torch.cat([up[slot, 0].float() @ narrow for up in ups])
    torch.testing.assert_close(_apply(inputs, base, indices).float(), expected, atol=0.2, rtol=0.05)


def test_large_batches_are_computed_as_small_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, _, _, base = _case()
    small = _apply(inputs, base, MIXED)
    monkeypatch.setattr(ours, "SMALL_BATCH", 0)
    torch.testing.assert_close(_apply(inputs, base, MIXED), small)


def test_an_adapter_that_overflows_leaves_the_other_rows_alone() -> None:
    output = torch.zeros(2, 3)
    ours.bgmv_expand(torch.tensor([[torch.inf], [1.0]]), torch.ones(2, 1, 3, 1), output, torch.tensor([1, 0]))
    assert output[1].tolist() == [1.0, 1.0, 1.0]


def test_indices_that_are_written_anew_in_place_are_seen() -> None:
    inputs, down, _, _ = _case()
    held = torch.tensor([0, -1, -1, -1, -1, -1, -1])
    first, second, third = (torch.zeros(TOKENS, RANK) for _ in range(3))
    ours.bgmv_shrink(inputs, down, first, held[:TOKENS])
    held[:TOKENS].copy_(torch.tensor([-1, 0, -1, -1, -1, -1, -1]))
    ours.bgmv_shrink(inputs, down, second, held[:TOKENS])
    ours.bgmv_shrink(inputs, down, third, held[: TOKENS - 1])
    assert first.any(dim=1).nonzero().flatten().tolist() == [0]
    assert second.any(dim=1).nonzero().flatten().tolist() == [1]
    torch.testing.assert_close(third, second)


def test_replacing_instead_of_adding_touches_adapter_rows_only() -> None:
    _, _, ups, base = _case()
    output = base.clone()
    ours.bgmv_expand(torch.ones(TOKENS, RANK), ups[0], output, torch.tensor(MIXED), False)
    for row, slot in enumerate(MIXED):
        expected = base[row, : WIDTHS[0]] if slot < 0 else ups[0][slot, 0].sum(dim=1)
        torch.testing.assert_close(output[row, : WIDTHS[0]], expected)
    assert torch.equal(output[:, WIDTHS[0] :], base[:, WIDTHS[0] :])


def test_the_corrected_functions_pass_the_check_that_register_makes() -> None:
    assert ours.is_correct(ours)


def test_stock_still_mixes_base_rows_with_the_last_slot_so_the_correction_is_still_needed(
    stock: ModuleType,
) -> None:
    assert not ours.is_correct(stock)


@pytest.fixture(scope="module")
def stock() -> ModuleType:
    """vLLM's functions, loaded from their file, because importing vLLM takes seconds and warns."""
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        unavailable("vLLM is not installed; run `make setup`")
    path = f"{found.submodule_search_locations[0]}/lora/ops/torch_ops/lora_ops.py"
    spec = importlib.util.spec_from_file_location("stock_lora_ops", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
