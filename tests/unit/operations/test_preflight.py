"""Problems of a configuration on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Config
from daemon.operations.preflight import problems
from tests.fixtures.families import hollow_model


@pytest.fixture
def usable(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., Config]:
    """Makes configurations whose model folder has no problem."""
    shapes = {"model.layers.0.self_attn.q_proj.weight": (8, 8)}
    hollow_model(tmp_path / "model", config={"architectures": ["LlamaForCausalLM"]}, shapes=shapes)
    return make_config


def test_a_usable_configuration_has_no_problems(usable: Callable[..., Config]) -> None:
    assert problems(usable(serving={"mode": "attached", "urls": ["http://vllm:8000"], "admin_token_env": "PATH"})) == []


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"model": {"path": "/nonexistent"}}, "model.path: /nonexistent"),
        ({"data_dir": "/proc/erratad"}, "data_dir: /proc"),
        ({"data_dir": "/dev/null/x"}, "data_dir: /dev/null is a file"),
        ({"dataset": {"recipe": "magic"}}, "dataset.recipe: 'magic'"),
        ({"dataset": {"recipes": {"style": "magic"}}}, "dataset.recipes.style: 'magic' is unknown; choose auto"),
        ({"dataset": {"replay_prompts": "/nonexistent.jsonl"}}, "dataset.replay_prompts"),
        ({"dataset": {"golden_pairs": "/nonexistent.jsonl"}}, "dataset.golden_pairs"),
        ({"evaluation": {"over_refusal": "/nonexistent.jsonl"}}, "evaluation.over_refusal: /nonexistent.jsonl"),
        ({"evaluation": {"attacks": "/nonexistent.jsonl"}}, "evaluation.attacks: /nonexistent.jsonl"),
        (
            {"dataset": {"similarity_by": "embeddings", "embedding_model": "/nonexistent"}},
            "dataset.embedding_model: /nonexistent holds no config.json",
        ),
        ({"reflection": {"template": "v999"}}, "reflection.template"),
        ({"training": {"ray": {"address": "ray-head:8265"}}}, "training.ray.address: 'ray-head:8265'"),
        ({"schedule": {"cron": "every day"}}, "schedule.cron: 'every day'"),
        ({"schedule": {"cron": "99 3 * * *"}}, "schedule.cron: '99 3 * * *'"),
        ({"schedule": {"timezone": "Mars/Base"}}, "schedule.timezone: 'Mars/Base'"),
        ({"store": {"url": "not a url"}}, "store.url"),
        ({"store": {"url": "mysql://x/y"}}, "store.url: mysql"),
        ({"store": {"url": "sqlite://"}}, "store.url: names no file"),
        ({"http": {"token_env": "ERRATAD_TEST_UNSET"}}, "http.token_env: environment variable ERRATAD_TEST_UNSET"),
        ({"intake": {"kafka": {"bootstrap_servers": ["kafka"]}}}, "intake.kafka.bootstrap_servers.0: 'kafka'"),
        (
            {"reflection": {"endpoint": {"url": "localhost:9000", "model": "m"}}},
            "reflection.endpoint.url: 'localhost:9000'",
        ),
        ({"evaluation": {"judge": {"url": "http://j:1/v1", "model": "m"}}}, "evaluation.judge.url"),
        (
            {"serving": {"mode": "attached", "urls": ["vllm"], "admin_token_env": "PATH"}},
            "serving.urls.0: 'vllm' is not an HTTP URL",
        ),
        ({"serving": {"max_lora_rank": 4096}}, "serving.max_lora_rank: 4096"),
    ],
)
def test_what_the_machine_lacks_is_named(
    sections: dict[str, Any], named: str, usable: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ERRATAD_TEST_UNSET", raising=False)
    config = usable(**sections)
    assert any(problem.startswith(named) for problem in problems(config)), problems(config)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("dataset", "replay_prompts"),
        ("dataset", "golden_pairs"),
        ("evaluation", "golden"),
        ("evaluation", "over_refusal"),
        ("evaluation", "attacks"),
        ("evaluation", "under_attack"),
    ],
)
def test_a_bad_line_of_a_set_is_named(section: str, key: str, usable: Callable[..., Config], tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('\n{"question": "Two?"}\n')
    [problem] = problems(usable(**{section: {key: str(path)}}))
    assert problem.startswith(f"{section}.{key}: {path}, line 2: ")


def test_weights_that_cannot_be_read_are_named(usable: Callable[..., Config]) -> None:
    """As in a model cache whose links lead to files that another user downloaded, or to none."""
    config = usable()
    (config.model.path / "model.safetensors").unlink()
    (config.model.path / "model.safetensors").symlink_to("/nonexistent")
    [problem] = problems(config)
    assert problem.startswith("model.path: the user who runs this cannot read model.safetensors of ")


def test_all_problems_are_listed_at_once(make_config: Callable[..., Config]) -> None:
    found = problems(make_config(dataset={"recipe": "magic"}, schedule={"cron": "x", "timezone": "nowhere"}))
    keys = {problem.split(":")[0] for problem in found}
    assert {"model.path", "dataset.recipe", "schedule.cron", "schedule.timezone"} <= keys


@pytest.mark.parametrize(
    ("runner", "settings"), [("ray", {"address": "http://ray-head:8265"}), ("kubernetes", {"image": "erratad"})]
)
def test_a_runner_whose_package_is_missing_is_named(
    usable: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, runner: str, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr("daemon.operations.preflight.find_spec", lambda _name: None)
    [problem] = problems(
        usable(
            serving={"mode": "attached", "urls": ["http://vllm:8000"], "admin_token_env": "PATH"},
            training={"runner": runner, runner: settings},
        )
    )
    assert problem.startswith(f"training.runner: {runner} is not installed here; install erratad[{runner}]")
