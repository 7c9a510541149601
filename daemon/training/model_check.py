"""The child of `check-config`: `python -m daemon.training.model_check < EXAMINED.json`.

It loads the model on torch's meta device, which needs no memory and reads no weights, so a model of any size takes the
same time.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import connectors.torch_extras  # noqa: F401  # isort: skip - before transformers looks for them
import torch
import transformers
from transformers import BitsAndBytesConfig
from transformers.quantizers import AutoHfQuantizer
from transformers.utils import logging as transformers_logging

from daemon.artifacts.base_layers import BaseLayers, Shape, read_config
from daemon.chat.template import ChatTemplate
from daemon.chat.tokenizer import load_tokenizer
from daemon.errors import ConfigError, ErratadError, TrainingError, UnrenderableError
from daemon.training.base_model import load_config, model_class, on_cpu
from daemon.training.examination import Examined, Findings

_SHOWN = 3


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    examined = Examined.model_validate_json(sys.stdin.read())
    with redirect_stdout(sys.stderr):  # the model's own code may print
        findings = findings_of(examined)
    print(findings.model_dump_json())  # noqa: T201 - the answer


def findings_of(examined: Examined) -> Findings:
    """All problems and notes of the model under this configuration."""
    problems = list(_devices(examined))
    notes: list[str] = []
    try:
        chat = _chat(examined)
        problems += chat.problems
        notes += chat.notes
        config = _config(examined)
        problems += _quantisation(examined, config)
        if problems:
            return Findings(problems=tuple(problems), notes=tuple(notes))
        layers = BaseLayers.read(examined.model.path)
        chosen = layers.choose(examined.training.target_modules)
        problems += _layers(layers, chosen, _linear_layers(examined, config))
        part = "the language part of " if layers.is_multimodal else ""
        notes.append(f"training.target_modules: adapters hold {', '.join(chosen)} of {part}{layers.architecture}")
    except ErratadError as exc:
        problems.append(str(exc))
    return Findings(problems=tuple(problems), notes=tuple(notes))


def _devices(examined: Examined) -> Iterator[str]:
    try:
        if on_cpu(examined.training) and examined.training.dtype == "float16":
            yield "training.dtype: float16 needs a GPU; use bfloat16 or float32"
    except TrainingError as exc:
        yield str(exc)
    if examined.serves_on_gpu and not torch.cuda.is_available():
        yield "serving.device: the GPU build of vLLM is installed, but there is no GPU; install erratad[cpu] instead"


def _config(examined: Examined) -> Any:
    """The model's configuration. Raises ConfigError if transformers does not know the model."""
    model = examined.model
    try:
        return load_config(model.path, trust_remote_code=model.trust_remote_code)
    except TrainingError as exc:
        own_code = "auto_map" in read_config(model.path)
        if own_code and not model.trust_remote_code:
            raise ConfigError(
                "model.trust_remote_code: the model needs the Python files in its folder; read them, then set this to "
                "true, or take a model of a family that transformers knows (docs/models.md)"
            ) from exc
        kind = read_config(model.path).get("model_type")
        raise ConfigError(
            f"model.path: transformers {transformers.__version__} cannot read a model of type {kind!r}: "
            f"{_first_line(exc.__cause__)}; take a model of another family (docs/models.md)"
        ) from exc


def _chat(examined: Examined) -> Findings:
    """Render conversations with the model's template, as the trainer does."""
    try:
        tokenizer = load_tokenizer(examined.model.path, trust_remote_code=examined.model.trust_remote_code)
        template = ChatTemplate(tokenizer, examined.chat)
    except ConfigError as exc:
        own_code = "auto_map" in read_config(examined.model.path) and not examined.model.trust_remote_code
        return Findings() if own_code else Findings(problems=(_with_key(str(exc)),))
    notes = []
    if not template.preparation.has_system_role:
        guidance = "guidance and system messages go" if examined.has_guidance else "system messages go"
        notes.append(f"chat.template: has no system role; {guidance} into the first user turn")
    else:
        notes.append("chat.template: takes system messages")
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    try:
        _, target = template.encode(asked, "Hello.")
    except UnrenderableError as exc:
        return Findings(problems=(f"chat.template: a plain conversation cannot be trained: {exc}; set chat.template",))
    end = tokenizer.decode(target[-1:], skip_special_tokens=False)
    notes.append(f"chat.template: an answer ends with {end!r}")
    longer = [asked[1], {"role": "assistant", "content": "Hello."}, asked[1]]
    try:
        template.encode(longer, "Hello again.")
    except UnrenderableError as exc:
        notes.append(f"chat.template: reports with earlier answers will be left out: {exc}")
    return Findings(notes=tuple(notes))


def _quantisation(examined: Examined, config: Any) -> Iterator[str]:
    """Ask transformers whether it can load these weights for training with the installed packages."""
    own = getattr(config, "quantization_config", None)
    wanted = examined.training.quantization
    if own is not None:
        method = (own if isinstance(own, dict) else own.to_dict()).get("quant_method", "unknown")
        if reason := _refused(own, pre_quantized=True):
            yield (
                f"model.path: its weights are quantised ({method}), and the trainer cannot load them here: {reason}; "
                "install that, or give the folder of the model without quantisation"
            )
    elif wanted != "none":
        bits = BitsAndBytesConfig(load_in_4bit=wanted == "4bit", load_in_8bit=wanted == "8bit")
        if reason := _refused(bits, pre_quantized=False):
            yield f"training.quantization: {wanted} cannot be used here: {reason}; install that, or write none"


def _refused(quantization: Any, *, pre_quantized: bool) -> str | None:
    """The reason why transformers cannot load weights of this quantisation; None if it can."""
    try:
        AutoHfQuantizer.from_config(quantization, pre_quantized=pre_quantized).validate_environment(device_map=None)
    except Exception as exc:  # noqa: BLE001 - each method checks its packages in its own way
        return _first_line(exc)
    return None


def _linear_layers(examined: Examined, config: Any) -> dict[str, tuple[int, ...]]:
    """The layers of the trainer's model that peft can adapt, with the shapes of their matrices."""
    with torch.device("meta"):
        model = model_class(config).from_config(config, trust_remote_code=examined.model.trust_remote_code)
    return {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def _layers(layers: BaseLayers, chosen: tuple[str, ...], linear: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """Compare the layers that adapters will hold in training with those of the checkpoint."""
    left_alone = re.compile(layers.excluded or r"(?!)")
    trained = {
        name: shape
        for name, shape in linear.items()
        if name.rpartition(".")[2] in chosen and not left_alone.fullmatch(name)
    }
    saved: dict[str, Shape] = {
        name: shape for name, shape in layers.shapes.items() if name.rpartition(".")[2] in chosen
    }
    if unknown := sorted(trained.keys() - saved.keys()):
        yield (
            f"model.path: the trainer has {_some(unknown)}, which the weights do not hold under that name; "
            "take a model of another family (docs/models.md), or a complete download"
        )
    if unused := sorted(saved.keys() - trained.keys()):
        yield (
            f"training.target_modules: the weights hold {_some(unused)}, which the trainer cannot adapt; "
            "remove the module from the list, or take a model of another family (docs/models.md)"
        )
    other = sorted(name for name in trained.keys() & saved.keys() if saved[name] not in (None, trained[name]))
    if other:
        yield f"model.path: {_some(other)} has another size in config.json than in the weights; download it again"


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _with_key(said: str) -> str:
    return said if said.startswith("model.path: ") else f"chat.template: {said}"


def _first_line(exc: BaseException | None) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__


if __name__ == "__main__":
    main()
