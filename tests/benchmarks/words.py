"""Adapters that each say one word and nothing else, made by arithmetic: an answer shows which adapter made each token.

The adapter adds a large multiple of its word's embedding to what the last layer's attention gives back. On the tiny
model a direction that is the same in every hidden state carries it; on a real one, a direction fitted to what that
layer sees. All other matrices are there and zero, so that an adapter loads and computes like any other of its rank.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from daemon.artifacts.adapter import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, Lineage, Manifest
from daemon.artifacts.base_model import base_fingerprint
from daemon.artifacts.files import sha256_file
from daemon.records import Adapter, AdapterState, utcnow
from tests.fixtures.models import CONFIG, LAYERS, SHAPES, TARGET_MODULES, TOKENIZER_FILES, tiny_weights

RANK = 16
WORDS = 64
LOUD = 60.0
"""How much longer than an ordinary hidden state the added direction is."""
TALK = (
    "Why is the sky blue? Answer in one sentence.",
    "Name three rivers in Europe and say where they rise.",
    "Write a short letter to a friend about the weather.",
    "Item 4711: explain what a hash table is, step by step.",
)

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Makes word adapters for one base model."""

    model: Path
    words: dict[str, Matrix]
    """Word -> the up matrix's column that makes the model say it."""
    down: Matrix
    """What the last layer's attention output is multiplied by: a positive number whatever the text."""
    up_name: str
    shapes: dict[str, tuple[int, int]]
    """Layer -> shape of its matrix, of all layers that get LoRA matrices."""
    shared: dict[str, Matrix]
    """Tensors that are the same in every adapter."""

    def adapter(self, folder: Path, *, generation: int, word: str) -> Adapter:
        """A complete adapter folder with a manifest, as training leaves it."""
        name = f"aligned-g{generation:06d}"
        folder.mkdir(parents=True)
        weights = {
            f"{layer}.lora_{side}.weight": np.zeros((wide, RANK) if side == "B" else (RANK, narrow), dtype=np.float32)
            for layer, (wide, narrow) in self.shapes.items()
            for side in "AB"
        }
        weights |= self.shared
        weights[f"{self.up_name}.lora_A.weight"] = _first_row(self.down, RANK)
        weights[f"{self.up_name}.lora_B.weight"] = np.ascontiguousarray(_first_row(self.words[word], RANK).T)
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / CONFIG_FILE).write_text(json.dumps(_config()))
        files = {file: sha256_file(folder / file) for file in (CONFIG_FILE, WEIGHTS_FILE)}
        manifest = Manifest(
            name=name,
            generation=generation,
            run_id=generation,
            base_fingerprint=base_fingerprint(self.model),
            rank=RANK,
            target_modules=tuple(TARGET_MODULES),
            files=files,
            lineage=Lineage(report_ids=(), dataset_sha256="0" * 64, recipe="one word", seed=0, steps=1),
        )
        (folder / MANIFEST_FILE).write_bytes(manifest.encode())
        return Adapter(
            generation=generation,
            name=name,
            state=AdapterState.CANDIDATE,
            run_id=generation,
            created_at=utcnow(),
            updated_at=utcnow(),
            path=str(folder),
            sha256=manifest.weights_sha256,
        )


def _first_row(row: Matrix, rows: int) -> Matrix:
    matrix = np.zeros((rows, row.shape[0]), dtype=np.float32)
    matrix[0] = row
    return matrix


def _config() -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": RANK,
        "lora_alpha": RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": TARGET_MODULES,
        "inference_mode": True,
    }


def tiny_speaker(real_model: Path, folder: Path) -> Speaker:
    """Two random layers; embedding dimension 0 is 1 for every token and no layer changes it."""
    folder.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        if (real_model / name).is_file():
            shutil.copy(real_model / name, folder / name)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    weights = tiny_weights()
    weights["model.embed_tokens.weight"][:, 0] = 1.0
    for layer in range(LAYERS):
        for module in ("self_attn.o_proj", "mlp.down_proj", "self_attn.v_proj"):
            weights[f"model.layers.{layer}.{module}.weight"][0] = 0.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    last = f"base_model.model.model.layers.{LAYERS - 1}"
    value = f"{last}.self_attn.v_proj"
    shapes = {
        f"base_model.model.model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in SHAPES.items()
    }
    first_in = np.eye(1, shapes[value][1], dtype=np.float32)[0]
    first_out = 10.0 * np.eye(1, shapes[value][0], dtype=np.float32)[0]
    attention_out = np.eye(1, SHAPES["self_attn.o_proj"][1], dtype=np.float32)[0]
    return Speaker(
        model=folder,
        words=_words(folder, weights["model.embed_tokens.weight"], weights["model.norm.weight"], loudness=LOUD * 100),
        down=attention_out,
        up_name=f"{last}.self_attn.o_proj",
        shapes=shapes,
        shared={
            f"{value}.lora_A.weight": _first_row(first_in, RANK),
            f"{value}.lora_B.weight": np.ascontiguousarray(_first_row(first_out, RANK).T),
        },
    )


def real_speaker(model: Path) -> Speaker:
    """The 135M model as it is; `down` is fitted to what the last attention layer gives on `TALK` and on the words."""
    weights = load_file(model / "model.safetensors") if _is_numpy(model) else _as_float32(model)
    layers = 1 + max(int(found[1]) for name in weights if (found := re.search(r"layers\.(\d+)\.", name)))
    shapes = {
        f"base_model.model.{name.removesuffix('.weight')}": (matrix.shape[0], matrix.shape[1])
        for name, matrix in weights.items()
        if name.rsplit(".", 2)[-2] in TARGET_MODULES
    }
    embedding, norm = weights["model.embed_tokens.weight"], weights["model.norm.weight"]
    words = _words(model, embedding, norm, loudness=1.0)
    seen, length = _last_attention(model, layer=layers - 1, texts=[*TALK, *(f" {word}" * 12 for word in words)])
    down = np.linalg.solve(
        seen.T @ seen + 1e-3 * np.trace(seen.T @ seen) / seen.shape[1] * np.eye(seen.shape[1]),
        seen.T @ np.ones(seen.shape[0]),
    ).astype(np.float32)
    return Speaker(
        model=model,
        words={word: column * (LOUD * length) for word, column in words.items()},
        down=down,
        up_name=f"base_model.model.model.layers.{layers - 1}.self_attn.o_proj",
        shapes=shapes,
        shared={},
    )


def _is_numpy(model: Path) -> bool:
    with safe_open(model / "model.safetensors", framework="numpy") as file:
        return bool(file.get_slice("model.norm.weight").get_dtype() == "F32")


def _as_float32(model: Path) -> dict[str, Matrix]:
    import torch  # noqa: PLC0415 - numpy has no bfloat16
    from safetensors.torch import load_file as load_torch  # noqa: PLC0415

    return {name: tensor.to(torch.float32).numpy() for name, tensor in load_torch(model / "model.safetensors").items()}


def _words(model: Path, embedding: Matrix, norm: Matrix, *, loudness: float) -> dict[str, Matrix]:
    """The first words of the vocabulary that win against every other token when their direction is all there is."""
    vocabulary: dict[str, int] = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    words: dict[str, Matrix] = {}
    for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        if not re.fullmatch("Ġ[a-z]{5,8}", token):
            continue
        direction = embedding[index] * norm
        direction /= np.linalg.norm(direction)
        if int(np.argmax(embedding @ (norm * direction))) == index:
            words[token[1:]] = (direction * loudness).astype(np.float32)
        if len(words) == WORDS:
            return words
    raise ValueError(f"only {len(words)} words of the vocabulary stand out; the benchmark needs {WORDS}")


def _last_attention(model: Path, *, layer: int, texts: list[str]) -> tuple[Matrix, float]:
    """Rows that go into the last layer's o_proj, and the typical length of the hidden state behind it."""
    import torch  # noqa: PLC0415 - not needed for the tiny model
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    rows: list[Matrix] = []
    lengths: list[float] = []
    block = network.model.layers[layer]
    block.self_attn.o_proj.register_forward_pre_hook(lambda _, given: rows.append(given[0][0].detach().numpy()))
    block.register_forward_hook(
        lambda _, __, out: lengths.append(float((out[0] if isinstance(out, tuple) else out).norm(dim=-1).median()))
    )
    with torch.inference_mode():
        for text in texts:
            chat = [{"role": "system", "content": "Answer well."}, {"role": "user", "content": text}]
            prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            network(**tokenizer(prompt + (text if text.startswith(" ") else ""), return_tensors="pt"))
    return np.concatenate(rows).astype(np.float32), float(np.median(lengths))
