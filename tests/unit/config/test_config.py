"""The configuration: what is refused, and that the refusal names key and next step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from daemon.config import Config, load_config
from daemon.config.masking import MASK, masked
from daemon.config.secret import secret
from daemon.errors import ConfigError
from daemon.operations.preflight import problems

MINIMAL = "model: {path: models/base}\n"


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "erratad.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def usable(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., Config]:
    """Makes configurations whose model folder exists."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return make_config


def test_a_model_path_is_all_that_a_configuration_needs(written: Callable[[str], Path]) -> None:
    config = load_config(written(MINIMAL))
    assert config.model.path == Path("models/base")
    assert config.serving.alias == "aligned"


def test_overrides_reach_nested_keys_and_are_yaml(written: Callable[[str], Path]) -> None:
    config = load_config(
        written(MINIMAL),
        ["schedule.cron=null", "training.epochs=1.5", "intake.kafka={bootstrap_servers: ['a:1']}", "log.level=debug"],
    )
    assert config.schedule.cron is None
    assert config.training.epochs == 1.5
    assert config.intake.kafka is not None
    assert config.intake.kafka.bootstrap_servers == ["a:1"]
    assert config.log.level == "debug"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model: {path: x}\ntrainig: {}\n", "trainig"),
        ("model: {path: x}\ntraining: {rnak: 8}\n", "training.rnak"),
        ("model: {path: x}\ntraining: {rank: -1}\n", "training.rank"),
        ("model: {path: x}\nlog: {level: loud}\n", "log.level"),
        ("log: {level: info}\n", "model"),
        ("model: {path: x}\nserving: {alias: base}\n", "alias"),
        ("model: {path: x}\nserving: {mode: attached}\n", "urls"),
        ("model: {path: x}\nhttp: {host: 0.0.0.0}\n", "token_env"),
        ("model: {path: x}\ntraining: {rank: 64}\n", "training.rank (64) exceeds serving.max_lora_rank (16)"),
        ("model: {path: x}\nreflection: {analyst: endpoint}\n", "endpoint"),
        (
            "model: {path: x}\ndataset: {variants: {per_cluster: 1}}\n",
            "dataset.variants: Extra inputs are not permitted",
        ),
        ("model: {path: x}\ndataset: {similarity_by: meaning}\n", "dataset.similarity_by"),
        (
            "model: {path: x}\nintake: {kafka: {bootstrap_servers: ['a:1'], security_protocol: SASL_SSL}}\n",
            "sasl_mechanism",
        ),
        ("model: {path: x}\nschedule: {blackout: [{start: '8', end: '09:00'}]}\n", "schedule.blackout.0.start"),
        ("- a list\n", "mapping"),
        ("model: [unclosed\n", "not YAML"),
    ],
)
def test_a_wrong_file_is_refused_by_the_name_of_the_key(text: str, named: str, written: Callable[[str], Path]) -> None:
    path = written(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_wrong_key_is_named_at_once(written: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written("model: {path: x}\nlog: {level: loud}\ngate: {min_items: 0}\n"))
    assert "log.level" in str(caught.value)
    assert "gate.min_items" in str(caught.value)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("override", ["log.level", "=x", "model.path.deeper=1", "log.level=[unclosed"])
def test_a_wrong_override_is_quoted(override: str, written: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(MINIMAL), [override])
    assert override in str(caught.value)


def test_suites_of_probes_are_switched_off_by_false_and_by_nothing_else(written: Callable[[str], Path]) -> None:
    config = load_config(written(f"{MINIMAL}\nevaluation: {{attacks: false}}\n"), ["evaluation.over_refusal=false"])
    assert (config.evaluation.over_refusal, config.evaluation.attacks) == (False, False)
    with pytest.raises(ConfigError, match=r"evaluation\.attacks"):
        load_config(written(MINIMAL), ["evaluation.attacks=true"])


def test_an_unset_secret_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERRATAD_TEST_SECRET", raising=False)
    assert secret(None) is None
    with pytest.raises(ConfigError, match="ERRATAD_TEST_SECRET"):
        secret("ERRATAD_TEST_SECRET")
    monkeypatch.setenv("ERRATAD_TEST_SECRET", "hush")
    assert secret("ERRATAD_TEST_SECRET") == "hush"


def test_a_usable_configuration_has_no_problems(usable: Callable[..., Config]) -> None:
    assert problems(usable(serving={"mode": "attached", "urls": ["http://vllm:8000"], "admin_token_env": "PATH"})) == []


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"model": {"path": "/nonexistent"}}, "model.path: /nonexistent"),
        ({"data_dir": "/proc/erratad"}, "data_dir: /proc"),
        ({"data_dir": "/dev/null/x"}, "data_dir: /dev/null is a file"),
        ({"dataset": {"recipe": "magic"}}, "dataset.recipe: 'magic'"),
        ({"dataset": {"replay_prompts": "/nonexistent.jsonl"}}, "dataset.replay_prompts"),
        ({"dataset": {"golden_pairs": "/nonexistent.jsonl"}}, "dataset.golden_pairs"),
        ({"evaluation": {"over_refusal": "/nonexistent.jsonl"}}, "evaluation.over_refusal: /nonexistent.jsonl"),
        ({"evaluation": {"attacks": "/nonexistent.jsonl"}}, "evaluation.attacks: /nonexistent.jsonl"),
        (
            {"dataset": {"similarity_by": "embeddings", "embedding_model": "/nonexistent"}},
            "dataset.embedding_model: /nonexistent holds no config.json",
        ),
        ({"reflection": {"template": "v999"}}, "reflection.template"),
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
    (config.model.path / "model.safetensors").symlink_to("/nonexistent")
    [problem] = problems(config)
    assert problem.startswith("model.path: the user who runs this cannot read model.safetensors of ")


def test_all_problems_are_listed_at_once(make_config: Callable[..., Config]) -> None:
    found = problems(make_config(dataset={"recipe": "magic"}, schedule={"cron": "x", "timezone": "nowhere"}))
    keys = {problem.split(":")[0] for problem in found}
    assert {"model.path", "dataset.recipe", "schedule.cron", "schedule.timezone"} <= keys


def test_no_secret_survives_masking(make_config: Callable[..., Config]) -> None:
    config = make_config(
        store={"url": "postgresql://erratad:hush@db/erratad"},
        serving={
            "environment": {"HF_TOKEN": "hush", "OMP_NUM_THREADS": "1"},
            "extra_args": ["--api-key", "hush", "--ssl-key-secret=hush", "--seed", "7"],
        },
        reflection={"endpoint": {"url": "http://user:hush@host/", "model": "m"}},
    )
    shown = yaml.safe_dump(masked(config))
    assert "hush" not in shown
    assert f"postgresql://erratad:{MASK}@db/erratad" in shown
    assert masked(config)["serving"]["environment"]["OMP_NUM_THREADS"] == "1"
    assert masked(config)["serving"]["extra_args"][-2:] == ["--seed", "7"]


def test_masking_keeps_a_configuration_without_secrets_as_it_is(make_config: Callable[..., Config]) -> None:
    config = make_config()
    assert Config.model_validate(masked(config)) == config
