"""`check-config`'s look at the model: set-ups that cannot work get a sentence that says what to change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from daemon.config.chat import ChatConfig
from daemon.config.serving import ModelConfig
from daemon.config.training import TrainingConfig
from daemon.training.examination import Examined, Findings
from daemon.training.model_check import findings_of
from tests.fixtures.chat import byte_level, template_text
from tests.fixtures.families import SIZES, hollow_model

pytestmark = pytest.mark.filterwarnings("ignore")
PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CHATML = PLAIN + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
MATRICES = {"self_attn.q_proj": (128, 128), "self_attn.o_proj": (128, 128), "mlp.down_proj": (128, 256)}
SHAPES = {f"model.layers.{number}.{name}.weight": shape for number in range(2) for name, shape in MATRICES.items()}
TRAINED = ["q_proj", "o_proj", "down_proj"]


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Makes model folders: Llama's config with changes, a tokenizer with the template, weights without bytes."""

    def make(template: str | None = CHATML, shapes: dict[str, Any] = SHAPES, **changes: Any) -> Path:
        values = {**LlamaConfig(**SIZES).to_dict(), "architectures": ["LlamaForCausalLM"], **changes}
        folder = hollow_model(tmp_path / "model", config=values, shapes=shapes)
        tokenizer = byte_level(template or "")
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        return folder

    return make


def findings(folder: Path, *, serves_on_gpu: bool = False, trust: bool = False, **training: Any) -> Findings:
    return findings_of(
        Examined(
            model=ModelConfig(path=folder, trust_remote_code=trust),
            chat=ChatConfig(),
            training=TrainingConfig.model_validate({"target_modules": TRAINED, **training}),
            has_guidance=True,
            serves_on_gpu=serves_on_gpu,
        )
    )


def problem(found: Findings) -> str:
    [one] = found.problems
    return one


def test_a_good_model_has_notes_and_no_problem(model: Callable[..., Path]) -> None:
    found = findings(model())
    assert found.problems == ()
    assert found.notes == (
        "chat.template: takes system messages",
        "chat.template: an answer ends with '<|im_end|>'",
        "training.target_modules: adapters hold q_proj, o_proj, down_proj of LlamaForCausalLM",
    )


def test_a_template_without_a_system_role_is_a_note(model: Callable[..., Path]) -> None:
    found = findings(model(template_text("gemma2")))
    assert found.problems == ()
    assert "guidance and system messages go into the first user turn" in found.notes[0]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "the model has no chat template; take an instruction-tuned model, or name a file in chat.template"),
        ("{{ raise_exception('no') }}", "renders no question with its answer"),
        ("{{ messages[0]['content'] }}", "leaves out the assistant's answer; set chat.template"),
    ],
)
def test_a_template_that_renders_no_conversation_is_named(
    model: Callable[..., Path], template: str | None, words: str
) -> None:
    assert words in problem(findings(model(template)))


def test_a_template_for_one_turn_only_is_a_note(model: Callable[..., Path]) -> None:
    found = findings(model("{% if messages|length > 2 %}{{ raise_exception('one turn') }}{% endif %}" + CHATML))
    assert found.problems == ()
    assert any("reports with earlier answers will be left out" in note for note in found.notes)


def test_an_unknown_class_is_named(model: Callable[..., Path]) -> None:
    said = problem(findings(model(model_type="novel", architectures=["NovelForCausalLM"])))
    assert said.startswith("model.path: transformers ")
    assert "a model of type 'novel'" in said
    assert "another family" in said


def test_a_model_that_needs_its_own_code_is_refused_until_it_is_trusted(model: Callable[..., Path]) -> None:
    """As ChatGLM-6B."""
    auto = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    folder = model(model_type="chatglm", architectures=["ChatGLMModel"], auto_map=auto)
    (folder / "own.py").write_text("raise SystemExit('the code ran')\n")
    said = problem(findings(folder))
    assert said.startswith("model.trust_remote_code: the model needs the Python files in its folder; read them")
    with pytest.raises(SystemExit, match="the code ran"):
        findings(folder, trust=True)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_weights_of_a_quantisation_that_is_not_installed_are_named(model: Callable[..., Path], method: str) -> None:
    folder = model(quantization_config={"quant_method": method, "bits": 4, "group_size": 128})
    said = problem(findings(folder))
    assert said.startswith(f"model.path: its weights are quantised ({method}), and the trainer cannot load them here")
    assert "without quantisation" in said


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantised_training_without_bitsandbytes_is_named(model: Callable[..., Path], bits: str) -> None:
    said = problem(findings(model(), quantization=bits))
    assert said.startswith(f"training.quantization: {bits} cannot be used here: ")
    assert "bitsandbytes" in said


def test_a_gpu_that_is_not_there_is_named(model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    folder = model()
    assert problem(findings(folder, device="cuda")).startswith("training.device is cuda, but torch finds no GPU")
    assert problem(findings(folder, dtype="float16")).startswith("training.dtype: float16 needs a GPU")
    assert problem(findings(folder, serves_on_gpu=True)).startswith("serving.device: the GPU build of vLLM")


def test_layers_that_only_the_trainer_has_are_named(model: Callable[..., Path]) -> None:
    """The checkpoint of another class, or one that transformers converts while it loads."""
    shapes = {name: shape for name, shape in SHAPES.items() if "layers.1.mlp" not in name}
    assert "the trainer has model.layers.1.mlp.down_proj, which the weights do not hold" in problem(
        findings(model(shapes=shapes))
    )


def test_layers_that_only_the_weights_have_are_named(model: Callable[..., Path]) -> None:
    more = {**SHAPES, "model.layers.2.mlp.down_proj.weight": (128, 256)}
    assert "the weights hold model.layers.2.mlp.down_proj, which the trainer cannot adapt" in problem(
        findings(model(shapes=more))
    )


def test_weights_of_another_size_are_named(model: Callable[..., Path]) -> None:
    other = {**SHAPES, "model.layers.0.mlp.down_proj.weight": (128, 512)}
    assert "model.layers.0.mlp.down_proj has another size in config.json" in problem(findings(model(shapes=other)))


def test_a_broken_tokenizer_is_named(model: Callable[..., Path]) -> None:
    folder = model()
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    said = problem(findings(folder))
    assert said.startswith("model.path: ")
    assert "has no usable tokenizer" in said
