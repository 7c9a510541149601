"""`check-config` on the folder of the base model, without loading it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Config
from daemon.operations.model_folder import folder_problems, longest_context
from tests.fixtures.families import hollow_model

LLAMA = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096}
SHAPES = {"model.layers.0.self_attn.q_proj.weight": (64, 64)}


def test_a_good_folder_has_no_problem(make_config: Callable[..., Config], tmp_path: Path) -> None:
    hollow_model(tmp_path / "model", config=LLAMA, shapes=SHAPES)
    assert list(folder_problems(make_config())) == []


def test_modules_that_the_model_cannot_hold_are_a_problem(make_config: Callable[..., Config], tmp_path: Path) -> None:
    hollow_model(tmp_path / "model", config=LLAMA, shapes=SHAPES)
    [problem] = folder_problems(make_config(training={"target_modules": ["q_proj", "lm_head"]}))
    assert problem.startswith("training.target_modules: lm_head")


def test_a_longer_context_than_the_models_is_a_problem(make_config: Callable[..., Config], tmp_path: Path) -> None:
    hollow_model(tmp_path / "model", config=LLAMA, shapes=SHAPES)
    long = {"max_model_len": 8192}
    [problem] = folder_problems(make_config(serving=long))
    assert problem.startswith("serving.max_model_len: 8192 is more than the 4096 tokens")
    assert problem.endswith("write at most 4096")
    allowed = {**long, "environment": {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}}
    assert list(folder_problems(make_config(serving=allowed))) == []


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({}, None),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 32}, "max_position_embeddings": 8}, 32),
        ({"max_position_embeddings": 100, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 100),
        ({"max_position_embeddings": 100, "rope_scaling": {"type": "linear", "factor": 2.0}}, 200),
        (
            {
                "max_position_embeddings": 400,
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100},
            },
            400,
        ),
    ],
)
def test_the_length_of_a_model_is_read_as_vllm_reads_it(config: dict[str, Any], limit: int | None) -> None:
    assert longest_context(config) == limit
