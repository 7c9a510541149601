"""`make bench-train`: what its line says, and the work that all trainers get."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from daemon.artifacts.base_layers import BaseLayers
from daemon.runtime.child import StopSignal
from daemon.training import lora
from tests.benchmarks.training import __main__ as command
from tests.benchmarks.training import shapes
from tests.benchmarks.training.work import corrections, encoded, make_job, taught

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_best_of_trls_settings_counts_even_if_it_is_the_default() -> None:
    arms = {"ours": 20.0, "default": 9.0, "length grouping": 7.0, "packing": 8.0}
    assert command._three({"arms": arms}) == {"ours": 20.0, "trl_best": 9.0, "trl_default": 9.0}
    arms["packing"] = 12.0
    assert command._three({"arms": arms})["trl_best"] == 12.0


@pytest.mark.parametrize(("name", "billions"), [("1B", 1.24), ("1.5B", 1.54), ("8B", 8.03)])
def test_shapes_are_as_large_as_they_are_called(name: str, billions: float) -> None:
    weights = sum(torch.Size(size).numel() for size in shapes.SHAPES[name].weights.values())
    assert weights / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_large_model_is_written_without_its_weights_on_the_disk(tmp_path: Path) -> None:
    folder = shapes.write_model(tmp_path / "8B", shapes.SHAPES["8B"])
    file = (folder / "model.safetensors").stat()
    assert file.st_size > 16e9
    assert file.st_blocks * 512 < 1e6
    assert BaseLayers.read(folder).shapes["model.layers.31.mlp.down_proj"] == (4096, 14_336)


def test_a_model_of_zeros_is_filled_with_what_a_model_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "SMALL", 0)
    folder = shapes.write_model(tmp_path / "tiny", shapes.SHAPES["tiny"])
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    assert not any(bool(weight.any()) for weight in model.parameters())
    shapes.fill(model)
    assert bool((model.model.norm.weight == 1.0).all())
    assert float(model.model.layers[0].mlp.up_proj.weight.float().std()) == pytest.approx(0.02, rel=0.05)


def test_the_examples_have_many_lengths_and_fit(tmp_path: Path) -> None:
    job = make_job(tmp_path, shapes.write_model(tmp_path / "tiny", shapes.SHAPES["tiny"]), device="cpu")
    training_set, _ = encoded(job, corrections(40, words=command.BYTE_WORDS))
    lengths = [len(one) for one in training_set.encoded]
    assert len(lengths) == 40
    assert max(lengths) > 2 * min(lengths)
    assert not training_set.left_out


def test_a_teacher_sees_another_prompt(tmp_path: Path) -> None:
    job = make_job(tmp_path, shapes.write_model(tmp_path / "tiny", shapes.SHAPES["tiny"]), device="cpu")
    training_set, _ = encoded(job, taught(4))
    assert len(training_set.taught) == 4
    assert all(0 < len(one.teacher) < len(one.prompt) for one in training_set.taught)


def test_in_half_precision_no_input_of_an_adapter_is_copied_to_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.training.base_model.cpu_has_bfloat16", lambda: True)
    model = shapes.write_model(tmp_path / "tiny", shapes.SHAPES["tiny"])
    job = make_job(tmp_path, model, device="cpu", dtype="bfloat16", threads=1)
    training_set, pad_id = encoded(job, corrections(4, words=command.BYTE_WORDS))
    run = lora.TrainingRun(job, training_set, checkpoints=tmp_path / "checkpoints", pad_id=pad_id)
    layer = run._model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    seen: list[torch.dtype] = []
    layer.lora_A["default"].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].dtype) if module.training else None
    )
    assert run.run(resume=None, stop=StopSignal())
    assert set(seen) == {torch.bfloat16}
    assert layer.cast_input_dtype_enabled, "as before, for whoever uses the model next"
    assert layer.lora_A["default"].weight.dtype == torch.float32
