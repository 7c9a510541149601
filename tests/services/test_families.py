"""Every family of docs/models.md: checked, trained, verified, and where vLLM's CPU build can serve it, served.

The models are tiny and random. Not served here: mixtures of experts (the CPU build has no kernel for them beside LoRA)
and multimodal models (vLLM loads their image processors, which need torchvision).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from connectors.vllm import Score, VllmServer
from daemon.artifacts.adapter import verify
from daemon.artifacts.base_layers import LANGUAGE_PART, BaseLayers
from daemon.artifacts.base_model import base_fingerprint
from daemon.artifacts.without_lora import WITHOUT_LORA
from daemon.config import Config
from daemon.operations.preflight import check
from daemon.training.job import TrainingProgress
from tests.fakes.vllm import ADMIN_TOKEN
from tests.fixtures.families import FAMILIES, LAYERS, SIZES, Family, hollow_model, table
from tests.fixtures.servers import API_KEY, base_and_adapted, running_vllm
from tests.fixtures.vllm_source import VllmSource

ROOT = Path(__file__).parents[2]
RANK = 8
LOSSES = ("kl", "cross-entropy")
MESSAGES = [{"role": "user", "content": "Tell me about rivers"}]
COMPLETION = "They exist."
NATS_PER_TOKEN = 0.1
"""Difference of two computations in bfloat16."""
CHECK_LIMIT_S = 20.0

each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each family, with the model and an adapter for each loss."""
    root = tmp_path_factory.mktemp("families")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fixtures.family_work", str(root)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@each_family
def test_check_config_finds_no_problem_and_names_the_modules(trained: Path, family: Family) -> None:
    found = json.loads((trained / family.name / "findings.json").read_text())
    assert found["problems"] == []
    assert f"chat.template: an answer ends with {family.end!r}" in found["notes"]
    assert found["notes"][-1].startswith(f"training.target_modules: adapters hold {', '.join(family.chosen)} of ")


@each_family
@pytest.mark.parametrize("replay_loss", LOSSES)
def test_the_adapter_holds_every_chosen_layer_under_the_name_that_vllm_expects(
    trained: Path, family: Family, replay_loss: str
) -> None:
    folder = trained / family.name
    failure = folder / "failure.txt"
    assert not failure.exists(), failure.read_text()[-3000:]
    adapter = folder / "adapters" / f"aligned-{replay_loss}"
    manifest = verify(
        adapter,
        name=adapter.name,
        base_fingerprint=base_fingerprint(folder / "model"),
        max_rank=RANK,
        target_modules=family.chosen,
        model_path=folder / "model",
    )
    progress = TrainingProgress.load(folder / f"run-{replay_loss}")
    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as file:
        layers = {key.split(".lora_")[0].removeprefix("base_model.model.") for key in file.keys()}  # noqa: SIM118

    assert manifest.lineage.steps == progress.steps >= 2
    assert progress.skipped == 0
    assert all(layer.startswith(f"{family.prefix}layers.") for layer in layers)
    assert {layer.rpartition(".")[2] for layer in layers} == set(family.chosen)
    assert layers == {
        name for name in BaseLayers.read(folder / "model").shapes if name.rpartition(".")[2] in family.chosen
    }
    assert any(f"layers.{LAYERS - 1}." in layer for layer in layers)


@pytest.mark.vllm
@pytest.mark.timeout(600)  # a server starts, and transformers in a child
@pytest.mark.parametrize("family", [family for family in FAMILIES if family.served], ids=lambda family: family.name)
def test_vllm_serves_the_adapter_as_it_was_trained(trained: Path, family: Family, tmp_path: Path) -> None:
    folder, name = trained / family.name, "aligned-g000001"
    with running_vllm(folder / "model", log=tmp_path / "log", target_modules=family.chosen) as running:
        server = VllmServer(running.url, api_key=API_KEY, admin_token=ADMIN_TOKEN, timeout_s=60)
        server.load(name, folder / "adapters" / "aligned-kl")
        base, adapted = (server.score(model, MESSAGES, COMPLETION) for model in ("base", name))
        reply = server.chat(name, MESSAGES, max_tokens=4)
        server.close()
    expected_base, expected = _expected(folder)
    tolerance = NATS_PER_TOKEN * base.tokens

    assert reply.model == name
    assert reply.text
    assert abs(expected.logprob - expected_base.logprob) > 4 * tolerance, "the adapter must matter for this test"
    assert base.logprob == pytest.approx(expected_base.logprob, abs=tolerance)
    assert adapted.logprob == pytest.approx(expected.logprob, abs=tolerance)


def _expected(folder: Path) -> tuple[Score, Score]:
    """Base and adapted, by transformers and peft."""
    return base_and_adapted(
        model=str(folder / "model"),
        adapter=str(folder / "adapters" / "aligned-kl"),
        messages=MESSAGES,
        completion=COMPLETION,
    )


def test_the_table_of_families_is_the_one_that_these_tests_show() -> None:
    assert table() in (ROOT / "docs" / "models.md").read_text()


def test_check_config_takes_under_20_s_for_a_model_of_8_billion_parameters(trained: Path, tmp_path: Path) -> None:
    """The weights are a hole of 14 GB: only their header is read."""
    tokenizer = trained / FAMILIES[0].name / "model"
    attention = {"q_proj": (4096, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096), "o_proj": (4096, 4096)}
    mlp = {"gate_proj": (14336, 4096), "up_proj": (14336, 4096), "down_proj": (4096, 14336)}
    layer = {f"self_attn.{name}": shape for name, shape in attention.items()} | {
        f"mlp.{name}": shape for name, shape in mlp.items()
    }
    shapes = {f"model.layers.{number}.{name}.weight": shape for number in range(32) for name, shape in layer.items()}
    config = {
        **json.loads((tokenizer / "config.json").read_text()),
        **{key: SIZES[key] for key in ("vocab_size",)},
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 8192,
    }
    model = hollow_model(tmp_path / "model", config=config, shapes=shapes)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer / name).exists():
            (model / name).write_bytes((tokenizer / name).read_bytes())
    start = _cpu_s()
    found = check(Config.model_validate({"data_dir": tmp_path / "var", "model": {"path": model}}))
    seconds = _cpu_s() - start
    assert found.problems == ()
    assert "down_proj of LlamaForCausalLM" in found.notes[-1]
    assert seconds < CHECK_LIMIT_S


def _cpu_s() -> float:
    """Of this process and its ended children: the time on the wall depends on the other tests."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


@pytest.fixture(scope="module")
def source() -> VllmSource:
    return VllmSource.installed()


def test_the_classes_without_lora_are_those_of_the_installed_vllm(source: VllmSource) -> None:
    assert {name for name, where in source.registry.items() if not source.supports_lora(where)} == WITHOUT_LORA


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.prefix == LANGUAGE_PART], ids=lambda one: one.name)
def test_vllm_maps_the_names_of_the_language_part_to_its_own(source: VllmSource, family: Family) -> None:
    """Beside the adapters' names above, this is all that serving a multimodal model's adapter asks for."""
    assert source.says(source.registry[family.architecture], '"model.language_model.": "language_model.model."')
