"""The layers that adapters hold, from a model's folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.artifacts.base_layers import BaseLayers, layer_shapes, target_modules, weight_shapes
from daemon.errors import ConfigError
from tests.fixtures.families import ATTENTION, DENSE, hollow_model

WIDTH = 64
SQUARE = (WIDTH, WIDTH)


def model(
    folder: Path, *layers: str, prefix: str = "model.", architecture: str = "LlamaForCausalLM", **more: Any
) -> Path:
    """A model of two layers with the given matrices in each, and the matrices of a vocabulary."""
    names = [f"{prefix}layers.{number}.{layer}.weight" for number in range(2) for layer in layers]
    vocabulary = {f"{prefix}embed_tokens.weight": SQUARE, "lm_head.weight": SQUARE, f"{prefix}norm.weight": (WIDTH,)}
    config = {"architectures": [architecture], **more}
    return hollow_model(folder, config=config, shapes={**dict.fromkeys(names, SQUARE), **vocabulary})


ATTN = tuple(f"self_attn.{name}" for name in ATTENTION)
MLP = tuple(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj"))


def test_auto_is_attention_and_mlp(tmp_path: Path) -> None:
    assert target_modules(model(tmp_path, *ATTN, *MLP), "auto") == DENSE


def test_a_named_list_is_taken_without_a_look_at_the_folder(tmp_path: Path) -> None:
    assert target_modules(tmp_path / "absent", ["q_proj"]) == ("q_proj",)


def test_fused_layers_are_trained_where_vllm_holds_them_whole(tmp_path: Path) -> None:
    fused = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    phi = model(tmp_path / "phi", *fused, architecture="Phi3ForCausalLM")
    assert target_modules(phi, "auto") == ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    glm = model(tmp_path / "glm", *ATTN, "mlp.gate_up_proj", "mlp.down_proj", architecture="Glm4ForCausalLM")
    assert target_modules(glm, "auto") == (*ATTENTION, "down_proj")


@pytest.mark.parametrize(
    "experts",
    [
        ("mlp.gate", "mlp.experts.0.gate_proj", "mlp.experts.0.down_proj"),
        ("block_sparse_moe.gate", "block_sparse_moe.experts.0.w1"),
        ("mlp.router", "mlp.experts.gate_up_proj_blocks"),
        ("mlp.gate", "mlp.experts.0.down_proj", "mlp.shared_expert.down_proj"),
    ],
    ids=["Qwen3-MoE", "Mixtral", "gpt-oss", "shared expert"],
)
def test_of_a_mixture_of_experts_only_attention_is_trained(tmp_path: Path, experts: tuple[str, ...]) -> None:
    layers = BaseLayers.read(model(tmp_path, *ATTN, *experts))
    assert layers.auto() == ATTENTION
    assert layers.modules == set(ATTENTION)
    with pytest.raises(ConfigError, match=r"cannot both hold down_proj of .* \(experts are not trained\); choose of"):
        layers.choose(["q_proj", "down_proj"])


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model.", "model."])
def test_of_a_multimodal_model_the_language_part_is_trained_under_the_trainers_names(
    tmp_path: Path, prefix: str
) -> None:
    folder = model(tmp_path, *ATTN, prefix=prefix, vision_config={})
    tower = dict.fromkeys(("model.visual.blocks.0.attn.q_proj.weight", "vision_tower.layers.0.q_proj.weight"), SQUARE)
    hollow_model(folder, config=json.loads((folder / "config.json").read_text()), shapes={**weights(folder), **tower})
    layers = BaseLayers.read(folder)
    assert set(layers.shapes) == {
        f"model.language_model.layers.{number}.self_attn.{name}" for number in range(2) for name in ATTENTION
    }
    assert layers.excluded is not None


def weights(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: shape or () for name, shape in weight_shapes(folder).items()}


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "FalconForCausalLM", "StableLmForCausalLM"])
def test_a_class_without_lora_in_vllm_is_refused(tmp_path: Path, architecture: str) -> None:
    folder = model(tmp_path, *ATTN, architecture=architecture)
    with pytest.raises(ConfigError, match=rf"model\.path: vLLM serves {architecture} without LoRA adapters; take"):
        target_modules(folder, "auto")


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens", "embed_out", "wte"])
def test_a_matrix_of_the_vocabulary_is_refused(tmp_path: Path, module: str) -> None:
    layers = BaseLayers.read(model(tmp_path, *ATTN, *MLP))
    with pytest.raises(ConfigError, match=rf"target_modules: {module} is the vocabulary's matrix.*write auto"):
        layers.choose(["q_proj", module])


def test_the_parts_of_a_fused_layer_are_refused_with_the_modules_to_choose_of(tmp_path: Path) -> None:
    phi = model(tmp_path, "self_attn.qkv_proj", "self_attn.o_proj", architecture="Phi3ForCausalLM")
    with pytest.raises(
        ConfigError, match="cannot both hold k_proj, q_proj of Phi3ForCausalLM; choose of o_proj, qkv_proj"
    ):
        BaseLayers.read(phi).choose(["q_proj", "k_proj", "o_proj"])


def test_names_without_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"begin with 'layers\.' instead of 'model\.layers\.'.*save_pretrained"):
        target_modules(model(tmp_path, *ATTN, prefix=""), "auto")


def test_a_second_copy_of_the_weights_is_not_read(tmp_path: Path) -> None:
    """Mistral's folders hold the weights twice; the second file has other names."""
    folder = model(tmp_path, *ATTN)
    other = hollow_model(tmp_path / "other", config={}, shapes={"layers.0.attention.wq.weight": SQUARE})
    (other / "model.safetensors").rename(folder / "consolidated.safetensors")
    assert target_modules(folder, "auto") == ATTENTION


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = model(tmp_path, *ATTN)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        ConfigError, match=r"model-00001-of-00002\.safetensors cannot be read: .*download the model again"
    ):
        target_modules(folder, "auto")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("pytorch_model.bin", r"holds its weights in pytorch_model\.bin, a pickle.*in safetensors format"),
        ("readme.md", "holds no weights; give the folder of a model in safetensors format"),
    ],
)
def test_a_folder_without_safetensors_is_refused(tmp_path: Path, file: str, words: str) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(ConfigError, match=words):
        target_modules(tmp_path, "auto")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"architectures": []}', '{"architectures": null}'])
def test_a_config_that_names_no_model_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"model\.path: "):
        target_modules(tmp_path, "auto")


def test_packed_weights_have_no_shape_and_are_layers_all_the_same(tmp_path: Path) -> None:
    shapes = {"model.layers.0.self_attn.q_proj.qweight": (8, 64), "model.layers.0.self_attn.q_proj.scales": (1, 64)}
    folder = hollow_model(tmp_path, config={"architectures": ["LlamaForCausalLM"]}, shapes=shapes, dtype="I32")
    assert layer_shapes(folder) == {"model.layers.0.self_attn.q_proj": None}


def test_a_model_without_a_known_layer_says_which_it_has(tmp_path: Path) -> None:
    folder = model(tmp_path, "mixer.in_proj", "mixer.out_proj")
    with pytest.raises(ConfigError, match="name those to train, of in_proj, out_proj"):
        target_modules(folder, "auto")
    assert BaseLayers.read(folder).choose(["in_proj"]) == ("in_proj",)
