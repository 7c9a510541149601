"""What a configuration file may say, and how it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.categories import Kind
from daemon.config import load_config
from daemon.config.dataset import MEASURED_RECIPES, DatasetConfig
from daemon.errors import ConfigError

MINIMAL = "model: {path: models/base}\n"


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "erratad.yaml"
        path.write_text(text)
        return path

    return write


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
            "dataset.variants: unknown; remove it, or correct its name",
        ),
        ("model: {path: x}\ndataset: {similarity_by: meaning}\n", "dataset.similarity_by"),
        ("model: {path: x}\ndataset: {recipes: {leak: sft}}\n", "'prompt-injection', 'secret-leak', 'harmful'"),
        ("model: {path: x}\ndataset: {teacher_tokens: 24}\n", "dataset.teacher_tokens"),
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


def test_variables_that_each_request_sets_are_no_kwargs_of_the_template(written: Callable[[str], Path]) -> None:
    config = load_config(written(f"{MINIMAL}\nchat: {{kwargs: {{enable_thinking: false}}, reasoning: [<a>, </a>]}}\n"))
    assert config.chat.kwargs == {"enable_thinking": False}
    assert config.chat.reasoning == ("<a>", "</a>")
    with pytest.raises(ConfigError, match=r"chat\.kwargs: .*messages, tools: each request sets these"):
        load_config(written(f"{MINIMAL}\nchat: {{kwargs: {{tools: [], messages: []}}}}\n"))


def test_a_recipe_given_alone_is_for_every_kind_of_mistake() -> None:
    assert DatasetConfig().recipes == MEASURED_RECIPES
    assert DatasetConfig.model_validate({"recipe": "sft"}).recipes == {}
    own = {Kind.STYLE: "sft"}
    assert DatasetConfig.model_validate({"recipe": "sft", "recipes": own}).recipes == own
    assert DatasetConfig.model_validate({"recipes": {}}).recipes == {}


def test_suites_of_probes_are_switched_off_by_false_and_by_nothing_else(written: Callable[[str], Path]) -> None:
    config = load_config(written(f"{MINIMAL}\nevaluation: {{attacks: false}}\n"), ["evaluation.over_refusal=false"])
    assert (config.evaluation.over_refusal, config.evaluation.attacks) == (False, False)
    with pytest.raises(ConfigError, match=r"evaluation\.attacks"):
        load_config(written(MINIMAL), ["evaluation.attacks=true"])


@pytest.mark.parametrize(
    "strengths", ["[0.5, 1.0]", "[0.75, 0.5]", "[1.0, 0.755]", "[1.0, 1.0]", "[1.0, 0.0]", "[2.0]"]
)
def test_strengths_fall_from_the_trained_one_in_whole_percents(strengths: str, written: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"training\.strengths"):
        load_config(written(MINIMAL), [f"training.strengths={strengths}"])


@pytest.mark.parametrize(("given", "meant"), [("[1.0, 0.75, 0.5]", (1.0, 0.75, 0.5)), ("[1]", (1.0,)), ("[]", (1.0,))])
def test_good_strengths_are_taken(given: str, meant: tuple[float, ...], written: Callable[[str], Path]) -> None:
    assert load_config(written(MINIMAL), [f"training.strengths={given}"]).training.strengths == meant


def test_an_archive_needs_pyarrow(written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.config.archive.find_spec", lambda _name: None)
    assert load_config(written(MINIMAL)).storage.archive.after_days is None
    with pytest.raises(ConfigError, match=r"storage\.archive: .*pip install 'erratad\[archive\]'"):
        load_config(written(MINIMAL), ["storage.archive.after_days=60"])
