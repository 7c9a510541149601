"""Models of known shapes with random weights, written as folders that the trainer loads as any base model.

Large files of weights are sparse: they read as zeros, so that a shape of 8B is written in no time. `fill` makes the
loaded weights random, because a GPU multiplies zeros faster.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMALL = 10_000_000
"""Weights; a model with no more is written with random ones."""
START, END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama: widths, and whether the output layer is the embedding."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = True

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        width = self.hidden // self.heads * self.kv_heads
        layer = {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (width, self.hidden),
            "self_attn.v_proj": (width, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.mlp, self.hidden),
            "mlp.up_proj": (self.mlp, self.hidden),
            "mlp.down_proj": (self.hidden, self.mlp),
            "input_layernorm": (self.hidden,),
            "post_attention_layernorm": (self.hidden,),
        }
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for number in range(self.layers):
            found |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
        found["model.norm.weight"] = (self.hidden,)
        return found if self.tied else {**found, "lm_head.weight": (self.vocabulary, self.hidden)}

    @property
    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
        }


SHAPES = {
    "tiny": Shape(hidden=64, mlp=128, layers=2, heads=4, kv_heads=2, vocabulary=512),
    "1B": Shape(hidden=2048, mlp=8192, layers=16, heads=32, kv_heads=8, vocabulary=128_256),
    "1.5B": Shape(hidden=1536, mlp=8960, layers=28, heads=12, kv_heads=2, vocabulary=151_936),
    "8B": Shape(hidden=4096, mlp=14_336, layers=32, heads=32, kv_heads=8, vocabulary=128_256, tied=False),
}
"""1B is Llama 3.2 1B's, 1.5B is Qwen2.5 1.5B's (without its biases), 8B is Llama 3.1 8B's."""


def write_model(folder: Path, shape: Shape) -> Path:
    """A folder with weights and a tokenizer of bytes; the same folder if it is there already."""
    path = folder / "model.safetensors"
    if path.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer().save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps(shape.config))
    if sum(torch.Size(size).numel() for size in shape.weights.values()) > SMALL:
        _write_zeros(path, shape)
    else:
        save_file({name: _random(name, size) for name, size in shape.weights.items()}, path, metadata={"format": "pt"})
    return folder


def _random(name: str, size: tuple[int, ...]) -> torch.Tensor:
    if "norm" in name:
        return torch.ones(size, dtype=torch.bfloat16)
    draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return (0.1 * torch.randn(size, generator=draw)).bfloat16()


def _write_zeros(path: Path, shape: Shape) -> None:
    header, offset = {}, 0
    for name, size in shape.weights.items():
        end = offset + torch.bfloat16.itemsize * torch.Size(size).numel()
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


def fill(model: Any, *, seed: int = 0) -> None:
    """Random weights for a model of zeros. Quantised weights stay as they are."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or not weight.is_floating_point():
                continue
            if "norm" in name:
                weight.fill_(1.0)
            else:
                weight.normal_(0.0, 0.02)


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, and the signs of ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, additional_special_tokens=[START]
    )
    fast.chat_template = TEMPLATE
    return fast
