"""The command line and the environment of the managed server."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from connectors.vllm_plugin.settings import AliasSettings
from daemon.config.chat import ChatConfig
from daemon.config.serving import AdapterStoreConfig, ModelConfig, ServingConfig
from daemon.config.training import TrainingConfig
from daemon.errors import ConfigError
from daemon.serving.command import Command, command, fingerprint, installed_vllm, runs_on_cpu
from tests.fixtures.families import hollow_model


def test_the_command_carries_every_setting_of_the_server(tmp_path: Path) -> None:
    built = _command(
        model=ModelConfig(path=tmp_path, dtype="float16", quantization="awq"),
        serving=ServingConfig(
            base_name="chat",
            host="::1",
            max_model_len=4096,
            max_loras=5,
            max_lora_rank=32,
            tensor_parallel_size=2,
            gpu_memory_utilization=0.8,
            launcher=["numactl", "--cpunodebind=0"],
            extra_args=["--seed", "7"],
        ),
        training=TrainingConfig(target_modules=["q_proj", "v_proj"]),
        port=8123,
    )
    line = " ".join(built.argv)
    assert built.argv[:2] == ("numactl", "--cpunodebind=0")
    assert built.argv[-2:] == ("--seed", "7")
    assert "-m connectors.vllm_plugin.start" in line
    for part in (
        f"--model {tmp_path} --served-model-name chat",
        "--host ::1 --port 8123",
        "--max-model-len 4096 --dtype float16",
        "--tensor-parallel-size 2",
        "--enable-lora --max-loras 5 --max-cpu-loras 10 --max-lora-rank 32",
        "--lora-target-modules q_proj v_proj --",
        "--quantization awq",
        "--gpu-memory-utilization 0.8",
    ):
        assert part in line


def test_a_server_gets_the_store_that_it_pulls_from_with_the_secrets_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = AdapterStoreConfig(url="s3://models/x", options={"region": "eu"}, options_env="S3", cache_max_adapters=5)
    monkeypatch.setenv("S3", '{"secret_access_key": "hush"}')
    serving = ServingConfig(adapter_store=store)
    found = AliasSettings.from_environment(_command(serving=serving).environment).cache
    assert found is not None
    assert found.store.url == "s3://models/x"
    assert found.store.options == {"region": "eu", "secret_access_key": "hush"}
    assert (found.folder, found.max_adapters, found.timeout_s) == (store.cache_dir, 5, store.timeout_s)
    assert (found.max_bytes, found.max_bytes_per_s) == (store.cache_max_bytes, store.max_bytes_per_s)
    monkeypatch.setenv("S3", "hush")
    with pytest.raises(ConfigError, match="S3 holds no JSON object") as caught:
        _command(serving=serving)
    assert "hush" not in str(caught.value)


def test_the_models_own_code_runs_only_where_it_is_trusted() -> None:
    trusted = ModelConfig(path=Path("/models/chat"), trust_remote_code=True)
    assert "--trust-remote-code" in _command(model=trusted).argv
    assert "--trust-remote-code" not in _command().argv


def test_auto_becomes_the_modules_of_the_model(tmp_path: Path) -> None:
    shapes = {"model.layers.0.self_attn.qkv_proj.weight": (8, 8), "model.layers.0.mlp.down_proj.weight": (8, 8)}
    hollow_model(tmp_path, config={"architectures": ["Phi3ForCausalLM"]}, shapes=shapes)
    line = " ".join(_command(model=ModelConfig(path=tmp_path), training=TrainingConfig()).argv)
    assert "--lora-target-modules qkv_proj down_proj --" in line


def test_the_section_chat_reaches_the_server_as_text(tmp_path: Path) -> None:
    model = ModelConfig(path=tmp_path)
    (tmp_path / "chat.jinja").write_text("{{ strftime_now('%Y') }}")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default", "template": "own"}]}')

    assert "--chat-template" not in _command(model=model, chat=ChatConfig()).argv
    file = _command(model=model, chat=ChatConfig(template=tmp_path / "chat.jinja", kwargs={"enable_thinking": False}))
    own = _command(model=model, chat=ChatConfig(default_system="Hi"))
    dated = _command(model=model, chat=ChatConfig(template=tmp_path / "chat.jinja", date=date(2026, 1, 31)))

    assert _value(file, "--chat-template") == "{{ strftime_now('%Y') }}"
    assert _value(file, "--default-chat-template-kwargs") == '{"enable_thinking": false}'
    assert _value(own, "--chat-template").endswith("own")
    assert '"content": "Hi"' in _value(own, "--chat-template")
    assert _value(dated, "--chat-template") == '{{ "2026" }}'
    assert dated.environment["VLLM_SYSTEM_START_DATE"] == "2026-01-31"
    assert "VLLM_SYSTEM_START_DATE" not in own.environment
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="has no chat template; take an instruction-tuned model, or name a file"):
        _command(model=model, chat=ChatConfig(default_system="Hi"))
    (tmp_path / "chat_template.jinja").write_text("file")
    assert _value(_command(model=model, chat=ChatConfig(default_system="Hi")), "--chat-template").endswith("file")


def _value(built: Command, option: str) -> str:
    return built.argv[built.argv.index(option) + 1]


def test_secrets_are_in_the_environment_and_never_on_the_command_line() -> None:
    built = _command(admin_token="admin-secret", api_key="api-secret")
    assert built.environment["ERRATAD_ADMIN_TOKEN"] == "admin-secret"
    assert built.environment["VLLM_API_KEY"] == "api-secret"
    assert "secret" not in " ".join(built.argv)


def test_the_plugin_learns_alias_and_guidance_and_no_configured_variable_overrides_that() -> None:
    built = _command(
        serving=ServingConfig(
            alias="helper", guidance="Be good.", environment={"ERRATAD_ALIAS": "other", "VLLM_LOGGING_LEVEL": "DEBUG"}
        )
    )
    assert built.environment["ERRATAD_ALIAS"] == "helper"
    assert built.environment["ERRATAD_GUIDANCE"] == "Be good."
    assert built.environment["VLLM_PLUGINS"] == "erratad,erratad_cpu_lora"
    assert built.environment["VLLM_LOGGING_LEVEL"] == "DEBUG"


@pytest.mark.parametrize(
    ("host", "open_routes", "expected"),
    [
        ("127.0.0.1", None, "/metrics"),
        ("localhost", None, "/metrics"),
        ("0.0.0.0", None, ""),
        ("127.0.0.1", [], ""),
        ("0.0.0.0", ["/metrics", "/v1/embeddings"], "/metrics,/v1/embeddings"),
    ],
)
def test_a_server_on_loopback_opens_its_metrics_and_others_what_is_configured(
    host: str, open_routes: list[str] | None, expected: str
) -> None:
    environment = _command(serving=ServingConfig(host=host, open_routes=open_routes)).environment
    assert environment["ERRATAD_OPEN_ROUTES"] == expected
    assert environment["ERRATAD_RAW_NAMES"] == "open"


def test_the_plugin_takes_every_open_route_that_the_configuration_takes() -> None:
    serving = ServingConfig(open_routes=["/metrics", "/v1/items/{id}/x", "/a.b-c_d"], raw_names="closed")
    settings = AliasSettings.from_environment(_command(serving=serving).environment)
    assert (list(settings.open_routes), settings.raw_names) == (serving.open_routes, False)
    for wrong in ("metrics", "/a/", "//a", "/*", "/a b", "/a,/b", "/a\n"):
        with pytest.raises(ValueError, match="open_routes"):
            ServingConfig(open_routes=[wrong])


def test_only_a_server_on_the_cpu_gets_the_settings_for_it() -> None:
    serving = ServingConfig(cpu_kv_cache_gib=3, cpu_threads=1)
    on_cpu, on_gpu = (_command(serving=serving, cpu=cpu).environment for cpu in (True, False))
    assert on_cpu["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert (on_cpu["OMP_NUM_THREADS"], on_cpu["VLLM_CPU_OMP_THREADS_BIND"]) == ("1", "nobind")
    assert on_cpu["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert not {"VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS"} & on_gpu.keys()


@pytest.mark.parametrize(("asked", "given"), [(1, "1"), (4, "8"), (16, "16"), (17, "32")])
def test_a_rank_is_rounded_up_to_one_that_vllm_takes(asked: int, given: str) -> None:
    argv = _command(serving=ServingConfig(max_lora_rank=asked)).argv
    assert argv[argv.index("--max-lora-rank") + 1] == given


def test_a_rank_above_what_vllm_takes_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="max_lora_rank is 1000"):
        _command(serving=ServingConfig(max_lora_rank=1000))


@pytest.mark.parametrize(
    ("device", "installed", "cpu"),
    [
        ("auto", "vllm-cpu 0.32.0", True),
        ("auto", "vllm 0.32.0", False),
        ("auto", "vllm 0.32.0+cpu", True),
        ("cpu", "vllm-cpu 0.32.0", True),
        ("cuda", "vllm 0.32.0", False),
        ("auto", None, False),
        ("cpu", None, True),
    ],
)
def test_the_installed_build_decides_where_the_server_computes(device: Any, installed: str | None, cpu: bool) -> None:
    assert runs_on_cpu(ServingConfig(device=device), installed) is cpu


@pytest.mark.parametrize(("device", "installed"), [("cuda", "vllm-cpu 0.32.0"), ("cpu", "vllm 0.32.0")])
def test_a_device_that_the_installed_build_lacks_is_a_configuration_error(device: Any, installed: str) -> None:
    with pytest.raises(ConfigError, match=r"serving\.device"):
        runs_on_cpu(ServingConfig(device=device), installed)


def test_a_running_server_is_recognised_by_command_environment_model_and_versions(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    def seen(serving: ServingConfig, installed: str = "vllm 1") -> str:
        return fingerprint(_command(serving=serving), model_path=tmp_path, installed=installed)

    plain = seen(ServingConfig())
    assert seen(ServingConfig()) == plain
    assert seen(ServingConfig(guidance="Other.")) != plain
    assert seen(ServingConfig(max_model_len=1024)) != plain
    assert seen(ServingConfig(), installed="vllm 2") != plain
    (tmp_path / "config.json").write_text("{ }")
    assert seen(ServingConfig()) != plain


def test_the_installed_vllm_is_found_by_either_name() -> None:
    assert str(installed_vllm()).startswith("vllm")


def _command(
    *,
    model: ModelConfig | None = None,
    serving: ServingConfig | None = None,
    training: TrainingConfig | None = None,
    port: int = 8000,
    admin_token: str = "token",
    api_key: str | None = None,
    cpu: bool = False,
    chat: ChatConfig | None = None,
) -> Command:
    return command(
        model or ModelConfig(path=Path("/models/chat")),
        serving or ServingConfig(),
        training or TrainingConfig(target_modules=["q_proj"]),
        port=port,
        admin_token=admin_token,
        api_key=api_key,
        cpu=cpu,
        chat=chat,
    )


@pytest.mark.parametrize(
    ("dtype", "cpu", "has_bfloat16", "served"),
    [
        ("bfloat16", True, False, "float32"),
        ("auto", True, False, "float32"),
        ("bfloat16", True, True, "bfloat16"),
        ("float16", True, False, "float16"),
        ("bfloat16", False, False, "bfloat16"),
    ],
)
def test_a_cpu_without_bfloat16_serves_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any, cpu: bool, has_bfloat16: bool, served: str
) -> None:
    monkeypatch.setattr("daemon.serving.command.cpu_has_bfloat16", lambda: has_bfloat16)
    model = ModelConfig(path=tmp_path, dtype=dtype)
    argv = _command(model=model, cpu=cpu).argv
    assert argv[argv.index("--dtype") + 1] == served
