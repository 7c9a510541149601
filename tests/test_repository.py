"""Rules about the repository itself."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Sample
from pydantic import BaseModel
from setuptools import find_namespace_packages

import daemon
from daemon import metrics
from daemon.config import Config, load_config
from daemon.operations.stages import STAGES

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
MODULES = sorted(path for package in ("connectors", "daemon") for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 400
OFF = re.compile(r"^(\s*)#\| ?", re.MULTILINE)
"""Marks the lines of a part that is off by default."""


def default_yaml(*, all_on: bool = False) -> str:
    text = (ROOT / "configs" / "default.yaml").read_text()
    return OFF.sub(r"\1", text) if all_on else text


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The configuration section in an annotation such as `KafkaConfig | None` or `list[BlackoutWindow]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for argument in get_args(annotation) if (section := section_of(argument))), None)


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        section = section_of(field.annotation)
        if section is not None:
            yield from keys_of(section, f"{prefix}{name}.")


def explained_keys(text: str) -> Iterator[tuple[str, bool]]:
    """Each key of a YAML text in block style, with whether a comment stands above it or beside it."""
    parents: list[tuple[int, str]] = []
    above = False
    for line in text.splitlines():
        found = re.match(r"^(\s*(?:- )?)([a-z_]+):(.*)$", line)
        if found is None:
            above = line.lstrip("- ").startswith("#") or (above and not line.strip())
            continue
        indent, name, rest = len(found[1]), found[2], found[3]
        parents = [(depth, parent) for depth, parent in parents if depth < indent]
        yield ".".join([parent for _, parent in parents] + [name]), above or " #" in rest
        parents.append((indent, name))
        above = False


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_is_valid(path: Path) -> None:
    assert isinstance(load_config(path), Config)


def test_the_defaults_are_the_ones_that_are_written_down() -> None:
    written = yaml.safe_load(default_yaml())
    assert Config.model_validate(written) == Config.model_validate({"model": {"path": written["model"]["path"]}})


def test_every_key_is_written_down() -> None:
    written = [key for key, _ in explained_keys(default_yaml(all_on=True))]
    assert set(written) == set(keys_of(Config))


def test_every_key_is_explained() -> None:
    sections = {key for key in keys_of(Config) if "." not in key}
    explained = {key for key, is_explained in explained_keys(default_yaml(all_on=True)) if is_explained}
    assert set(keys_of(Config)) - explained - sections == set()


def test_parts_that_are_off_by_default_are_valid_when_they_are_switched_on() -> None:
    config = Config.model_validate(yaml.safe_load(default_yaml(all_on=True)))
    assert config.intake.kafka is not None
    assert config.reflection.endpoint is not None
    assert config.evaluation.judge is not None
    [window] = config.schedule.blackout
    assert config.webhook is not None
    assert config.mlflow is not None
    assert config.otlp is not None
    assert config.serving.adapter_store is not None
    endpoints = (
        config.serving.adapter_store,
        config.webhook,
        config.mlflow,
        config.otlp,
        config.reflection.endpoint,
        config.evaluation.judge,
    )
    for section in (*endpoints, config.intake.kafka, window):
        for name, field in type(section).model_fields.items():
            if not field.is_required():
                assert getattr(section, name) == field.get_default(), name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_env_keys_name_variables_and_hold_no_secrets(path: Path) -> None:
    def strings(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for name, item in value.items():
                yield from strings(item, name)
        else:
            yield key, value

    for key, value in strings(yaml.safe_load(path.read_text())):
        if key.endswith("_env"):
            assert value is None or re.fullmatch(r"[A-Z][A-Z0-9_]*", value), key
        else:
            assert not re.search(r"(^|_)(password|token|secret|api_key)$", key), key


def test_the_daemon_that_is_imported_is_ours() -> None:
    """PyPI's python-daemon ships a top-level package of the same name."""
    assert Path(daemon.__file__).parent == ROOT / "daemon"


def packages_after(statement: str) -> set[str]:
    """What a fresh process has loaded after the statement."""
    code = f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_the_configuration_imports_without_the_heavy_parts() -> None:
    packages = packages_after("import daemon.config")
    assert "pydantic" in packages
    assert not {"torch", "transformers", "peft", "sqlalchemy", "fastapi", "kafka", "vllm", "sklearn"} & packages


def test_no_module_shadows_the_standard_library() -> None:
    names = {path.stem for path in MODULES} | {path.parent.name for path in MODULES}
    assert names & set(sys.stdlib_module_names) == set()


@pytest.mark.parametrize("package", ["connectors", "daemon"])
def test_no_file_is_too_long(package: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES if path.is_relative_to(ROOT / package)}
    assert {str(path): length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_each_revision_of_the_database_is_there_once_and_follows_the_one_before() -> None:
    paths = sorted((ROOT / "daemon" / "store" / "migrations" / "versions").glob("0*.py"))
    names = [f"{number:04}" for number in range(1, len(paths) + 1)]
    assert [path.name[:4] for path in paths] == names
    for path, number, before in zip(paths[1:], names[1:], names[:-1], strict=True):
        assert f'revision = "{number}"\ndown_revision = "{before}"\n' in path.read_text(), path.name


def stages() -> list[tuple[str, str]]:
    """Module and name of every stage class, and of every sink, which names its delivery stage."""
    found = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            if {"step", "send"}.isdisjoint(getattr(item, "name", "") for item in node.body):
                continue
            found += [
                (".".join(path.relative_to(ROOT).with_suffix("").parts), str(item.value.value))
                for item in node.body
                if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "name"
                if isinstance(item.value, ast.Constant)
            ]
    return found


def test_every_stage_can_be_paused_by_its_name() -> None:
    assert {name for _, name in stages()} == set(STAGES)


def test_the_child_with_the_tokenizer_loads_no_store() -> None:
    """It was a third of what it took to start."""
    assert not {"sqlalchemy", "alembic", "kafka"} & packages_after("import daemon.chat.child")


def test_only_the_training_process_loads_torch() -> None:
    modules = ", ".join(sorted({module for module, _ in stages()} | {"daemon.web.app"}))
    assert {"torch", "transformers", "peft", "vllm"} & packages_after(f"import {modules}") == set()


def declared_metrics() -> list[tuple[str, MetricWrapperBase]]:
    return [(name, value) for name, value in vars(metrics).items() if isinstance(value, MetricWrapperBase)]


def test_metrics_follow_the_naming_rules() -> None:
    assert len(declared_metrics()) > 30
    for constant, metric in declared_metrics():
        [family] = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert re.fullmatch(r"erratad(_[a-z0-9]+)+", name), constant
        assert family.documentation.rstrip().endswith("."), f"{name} needs a help sentence"
        assert family.type == "counter" or not name.endswith(("_total", "_count", "_sum")), name
        assert not re.search(r"_(ms|milliseconds|minutes|hours|kb|mb|gb|percent)(_|$)", name), f"{name}: base units"
        assert family.type != "histogram" or name.endswith(("_seconds", "_bytes", "_tokens")), f"{name}: unit"


def test_counters_are_declared_under_the_name_that_is_exported() -> None:
    """prometheus_client adds `_total` itself; the source must show the name that dashboards use."""
    for node in ast.walk(ast.parse((ROOT / "daemon" / "metrics.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Counter":
            name = node.args[0]
            assert isinstance(name, ast.Constant)
            assert str(name.value).endswith("_total"), name.value


def test_metrics_are_registered_once() -> None:
    samples: list[Sample] = [sample for family in REGISTRY.collect() for sample in family.samples]
    keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples]
    assert len(keys) == len(set(keys))


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    home = re.compile(rb"/(?:home|Users)/[A-Za-z0-9_.-]+/|/[r]oot/")
    found = [str(path.relative_to(ROOT)) for path in tracked_files() if home.search(path.read_bytes())]
    assert found == []


def test_the_wheel_holds_the_product_alone_and_needs_no_test_code() -> None:
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    found = {name.partition(".")[0] for name in find_namespace_packages(str(ROOT), include=shipped)}
    assert found == {"connectors", "daemon"}
    assert [str(path) for path in MODULES if re.search(r"^\s*(from|import) tests\b", path.read_text(), re.M)] == []


TESTED_THROUGH = {
    # with real parts
    "connectors/kafka/": "tests/services/test_kafka*.py",
    "connectors/mlflow.py": "tests/services/test_mlflow.py",
    "connectors/otlp.py": "tests/unit/delivery/test_otlp.py",
    "connectors/vllm.py": "tests/services/test_vllm_contract.py",
    "connectors/vllm_wire.py": "tests/services/test_vllm_contract.py",
    "connectors/vllm_plugin/": "tests/services/test_vllm_contract.py",
    "connectors/vllm_plugin/without_extras/": "tests/unit/connectors/vllm_plugin/test_start.py",
    **dict.fromkeys(
        [f"daemon/chat/{name}.py" for name in ("child", "facts", "probes", "reader", "tokenizer")],
        "tests/services/test_chat_reader.py",
    ),
    "daemon/dataset/embedder.py": "tests/services/test_embeddings.py",
    "daemon/dataset/embeddings.py": "tests/services/test_embeddings.py",
    "daemon/delivery/events.py": "tests/services/test_ingest.py",
    "daemon/delivery/mlflow.py": "tests/services/test_mlflow.py",
    "daemon/delivery/training_run.py": "tests/services/test_mlflow.py",
    "daemon/demo/": "tests/e2e/test_demo.py",
    "daemon/intake/": "tests/services/test_ingest.py",
    "daemon/intake/formats/": "tests/unit/intake/formats/test_answers.py",
    "daemon/intake/products/": "tests/unit/intake/products/test_open_webui.py",
    "daemon/intake/submit.py": "tests/services/test_submit.py",
    "daemon/runtime/kafka_options.py": "tests/services/test_kafka_connection.py",
    "daemon/service.py": "tests/faults/test_daemon_killed.py",
    "daemon/serving/process.py": "tests/faults/test_vllm_server_faults.py",
    "daemon/store/": "tests/services/test_store_*.py",
    "daemon/training/": "tests/services/test_finetune.py",
    "daemon/training/process.py": "tests/faults/test_finetune_faults.py",
    # by the module that uses them
    "connectors/webhook.py": "tests/unit/delivery/test_webhook.py",
    "daemon/__main__.py": "tests/unit/cli/test_app.py",
    "daemon/shipped.py": "tests/deploy/test_wheel.py",
    "daemon/artifacts/base_model.py": "tests/unit/artifacts/test_adapter.py",
    "daemon/artifacts/without_lora.py": "tests/services/test_families.py",
    "daemon/artifacts/examples.py": "tests/unit/dataset/test_recipes.py",
    "daemon/chat/ids.py": "tests/unit/chat/test_template.py",
    "daemon/chat/preparation.py": "tests/unit/chat/test_template.py",
    "daemon/cli/backend.py": "tests/unit/cli/test_steer.py",
    "daemon/cli/contexts.py": "tests/unit/cli/test_context.py",
    "daemon/cli/init.py": "tests/unit/operations/test_new_config.py",
    "daemon/cli/local.py": "tests/unit/cli/test_steer.py",
    "daemon/tls.py": "tests/unit/cli/test_remote.py",
    "daemon/operations/outgoing.py": "tests/unit/operations/test_dangers.py",
    "daemon/web/console/bulk.py": "tests/unit/web/console/test_pages.py",
    "daemon/promotion/approval.py": "tests/unit/promotion/test_rollout.py",
    "daemon/cli/options.py": "tests/unit/cli/test_steer.py",
    "daemon/cli/server.py": "tests/unit/cli/test_context.py",
    "daemon/config/": "tests/unit/config/test_config.py",
    "daemon/dataset/golden.py": "tests/unit/evaluation/test_probes.py",
    "daemon/dataset/states.py": "tests/unit/dataset/test_teachers.py",
    "daemon/dataset/run_files.py": "tests/unit/dataset/test_stage.py",
    "daemon/dataset/selection.py": "tests/unit/dataset/test_stage.py",
    "daemon/delivery/outbox.py": "tests/unit/delivery/test_webhook.py",
    "daemon/delivery/retries.py": "tests/unit/delivery/test_webhook.py",
    "daemon/delivery/stage.py": "tests/unit/delivery/test_webhook.py",
    "daemon/evaluation/breadth.py": "tests/unit/evaluation/test_votes.py",
    "daemon/evaluation/comparison.py": "tests/unit/evaluation/test_gate.py",
    "daemon/evaluation/figures.py": "tests/unit/evaluation/test_gate.py",
    "daemon/evaluation/generalisation.py": "tests/unit/evaluation/test_gate.py",
    "daemon/evaluation/finding.py": "tests/unit/evaluation/test_gate.py",
    "daemon/evaluation/taught.py": "tests/unit/evaluation/test_novelty.py",
    "daemon/evaluation/measurement.py": "tests/unit/evaluation/test_stage.py",
    "daemon/evaluation/progress.py": "tests/unit/evaluation/test_stage.py",
    "daemon/evaluation/exports.py": "tests/unit/evaluation/test_sweep.py",
    "daemon/parts.py": "tests/unit/text/test_merging.py",
    "daemon/operations/commands.py": "tests/unit/cli/test_steer.py",
    "daemon/operations/stages.py": "tests/unit/cli/test_steer.py",
    "daemon/operations/shown.py": "tests/unit/web/test_operators.py",
    "daemon/operations/views.py": "tests/unit/web/test_operators.py",
    "daemon/operations/progress.py": "tests/unit/operations/test_status.py",
    "daemon/operations/scores.py": "tests/unit/web/test_operators.py",
    "daemon/operations/reviews.py": "tests/unit/web/test_operators.py",
    "daemon/serving/publisher.py": "tests/unit/connectors/vllm_plugin/test_cache.py",
    "daemon/promotion/swap.py": "tests/unit/promotion/test_stage.py",
    "daemon/promotion/trial.py": "tests/unit/promotion/test_rollout.py",
    "daemon/promotion/trial_figures.py": "tests/unit/promotion/test_rollout.py",
    "connectors/vllm_plugin/said.py": "tests/unit/connectors/vllm_plugin/test_exchanges.py",
    "connectors/vllm_plugin/settings.py": "tests/unit/connectors/vllm_plugin/test_raw_names.py",
    "daemon/evidence/recorded.py": "tests/unit/evidence/test_completions.py",
    "daemon/evidence/remembered.py": "tests/unit/evidence/test_completions.py",
    "daemon/evidence/reproduction.py": "tests/unit/evidence/test_stage.py",
    "daemon/reflection/analyst.py": "tests/unit/reflection/test_failures.py",
    "daemon/runtime/cron.py": "tests/unit/test_schedule.py",
    "daemon/artifacts/jsonl.py": "tests/unit/evaluation/test_suites.py",
    "daemon/runtime/lock.py": "tests/unit/runtime/test_supervise.py",
    "daemon/text/": "tests/unit/text/test_rules.py",
    "daemon/web/console/": "tests/unit/web/console/test_pages.py",
    "daemon/web/dependencies.py": "tests/unit/web/test_access.py",
    "daemon/web/reports.py": "tests/unit/web/test_operators.py",
    "connectors/checker/process.py": "tests/unit/connectors/checker/test_client.py",
    "connectors/messages/checks.py": "tests/unit/connectors/messages/test_report.py",
    "connectors/messages/decoding.py": "tests/unit/connectors/messages/test_report.py",
    "connectors/messages/event.py": "tests/unit/connectors/messages/test_report.py",
    "connectors/messages/fields.py": "tests/unit/connectors/messages/test_report.py",
    "connectors/kafka/letters.py": "tests/services/test_erasure.py",
    "daemon/operations/archiving.py": "tests/services/test_archive.py",
    "daemon/operations/remains.py": "tests/services/test_erasure.py",
    # closed sets
    "daemon/categories.py": "tests/unit/reflection/test_prompts.py",
    "daemon/errors.py": "tests/unit/cli/test_app.py",
    "daemon/labels.py": "tests/services/test_monitoring.py",
    "daemon/metrics.py": "tests/test_repository.py",
    "daemon/report_filter.py": "tests/services/test_store_search.py",
}
"""Module, or folder, without a test file of its own name -> the tests that it is tested through."""


def test_every_module_has_its_test_file_or_names_the_tests_it_is_tested_through() -> None:
    """tests/unit/ROOM/test_MODULE.py for daemon/ROOM/MODULE.py; an entry that covers no module any more fails, too."""
    without: dict[str, str | None] = {}
    for path in MODULES:
        inside = path.relative_to(ROOT / "daemon") if path.is_relative_to(ROOT / "daemon") else path.relative_to(ROOT)
        own = ROOT / "tests" / "unit" / inside.with_name(f"test_{path.name}")
        if path.name == "__init__.py" or "migrations" in path.parts or own.exists():
            continue
        name = path.relative_to(ROOT).as_posix()
        folder = f"{path.parent.relative_to(ROOT).as_posix()}/"
        without[name] = next((entry for entry in (name, folder) if entry in TESTED_THROUGH), None)
    assert [module for module, entry in without.items() if entry is None] == []
    assert set(TESTED_THROUGH) - set(without.values()) == set()
    assert [tests for tests in TESTED_THROUGH.values() if not list(ROOT.glob(tests))] == []
