"""The fleet, and the parts of the managed server that need no process: command line, log, observations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.vllm import VllmServer
from daemon.config import Config
from daemon.config.serving import ModelConfig, ServingConfig
from daemon.config.training import TrainingConfig
from daemon.errors import AdapterInvalidError, ConfigError, ServingError
from daemon.records import Adapter, AdapterState, served_name, utcnow
from daemon.serving import connect
from daemon.serving.command import Command, command, fingerprint, installed_vllm, runs_on_cpu
from daemon.serving.connect import open_serving
from daemon.serving.fleet import Fleet
from daemon.serving.managed import (
    EMPTY_LIMIT,
    PROBE_INTERVAL_S,
    UNANSWERED_LIMIT_S,
    UNREADY_LIMIT_S,
    Watch,
)
from daemon.serving.process import ServerProcess
from daemon.serving.server_log import MAX_LOG_BYTES, ServerLog
from tests.fakes.vllm import FakeVllm

# --- the command ---


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


# --- the fleet ---


def test_ready_servers_take_turns(make_client: Callable[..., VllmServer]) -> None:
    with FakeVllm() as one, FakeVllm() as two:
        fleet = Fleet([make_client(one.url), make_client(two.url)], verify=_no_check)
        urls = [fleet.any().url for _ in range(4)]
        fleet.close()
    assert sorted(urls[:2]) == sorted([one.url, two.url])
    assert urls[:2] == urls[2:]


def test_a_server_that_is_down_is_passed_over(make_client: Callable[..., VllmServer]) -> None:
    down = FakeVllm()
    down.stop()
    with FakeVllm() as up:
        fleet = Fleet([make_client(down.url), make_client(up.url)], verify=_no_check)
        assert {fleet.any().url for _ in range(3)} == {up.url}
        fleet.servers[1].close()


def test_a_fleet_without_a_ready_server_says_so(make_client: Callable[..., VllmServer]) -> None:
    down = FakeVllm()
    down.stop()
    with pytest.raises(ServingError, match="none of 1 vLLM servers is ready"):
        Fleet([make_client(down.url)], verify=_no_check).any()
    with pytest.raises(ServingError, match="none of 0"):
        Fleet(verify=_no_check).any()


def test_a_server_that_refuses_the_admin_token_is_not_ready(make_client: Callable[..., VllmServer]) -> None:
    with FakeVllm() as fake:
        client = make_client(fake.url, admin_token="wrong")
        with pytest.raises(ServingError):
            Fleet([client], verify=_no_check).any()
        client.close()


def test_an_adapter_is_verified_before_it_is_loaded_and_not_again(
    fake_vllm: FakeVllm, make_client: Callable[..., VllmServer], tmp_path: Path
) -> None:
    verified: list[str] = []
    fleet = Fleet([make_client(fake_vllm.url)], verify=lambda adapter: verified.append(adapter.name))
    adapter = _adapter(tmp_path)
    fleet.ensure_loaded(adapter)
    fleet.ensure_loaded(adapter)
    assert verified == [adapter.name]
    assert fleet.servers[0].state().adapters.keys() == {adapter.name}


def test_an_adapter_that_is_not_sound_reaches_no_server(
    fake_vllm: FakeVllm, make_client: Callable[..., VllmServer], tmp_path: Path
) -> None:
    def refuse(adapter: Adapter) -> None:
        raise AdapterInvalidError("holds NaN")

    fleet = Fleet([make_client(fake_vllm.url)], verify=refuse)
    with pytest.raises(AdapterInvalidError, match="holds NaN"):
        fleet.ensure_loaded(_adapter(tmp_path))
    assert fleet.servers[0].state().adapters == {}


def test_the_base_model_needs_no_loading(tmp_path: Path) -> None:
    base = _adapter(tmp_path, generation=0)
    Fleet(verify=_no_check).ensure_loaded(base)
    assert served_name(base, "base") == "base"
    assert served_name(_adapter(tmp_path), "base") == "aligned-g000003"


def test_attached_replicas_get_the_secrets_of_the_environment(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, fake_vllm: FakeVllm
) -> None:
    monkeypatch.setenv("ADMIN", "test-admin-token")
    config = make_config(serving={"mode": "attached", "urls": [fake_vllm.url], "admin_token_env": "ADMIN"})
    fleet, managed = open_serving(config)
    assert managed is None
    assert fleet.any().url == fake_vllm.url
    fleet.servers[0].close()


def test_weights_other_than_the_measured_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_config: Callable[..., Config]
) -> None:
    class Manifest:
        weights_sha256 = "1" * 64

    monkeypatch.setattr(connect, "base_fingerprint", lambda path: "f" * 64)
    monkeypatch.setattr(connect.artifact, "verify", lambda folder, **options: Manifest)
    config = make_config()
    verify = connect.verifier(config.model, config.serving, config.training)
    with pytest.raises(AdapterInvalidError, match="other weights"):
        verify(_adapter(tmp_path))


def test_a_model_folder_that_is_missing_is_named_before_anything_starts(make_config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: .*/model cannot be read"):
        open_serving(make_config())


# --- the log ---


def test_the_log_tells_how_far_the_start_is(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "logs" / "vllm.log")
    assert log.phase() == "importing modules"
    log.begin()
    log.path.write_text("INFO Initializing a V1 LLM engine\n")
    assert log.phase() == "starting the engine"
    with log.path.open("a") as file:
        file.write("INFO Starting to load model /m\n")
    assert log.phase() == "loading weights"


def test_a_start_is_judged_by_its_own_lines_only(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "vllm.log")
    log.path.write_text("ValueError: an old failure\nINFO Starting to load model\n")
    log.begin()
    assert (log.phase(), log.last_words()) == ("importing modules", "it logged nothing")


def test_the_first_error_is_the_cause(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "vllm.log")
    log.path.write_text("INFO fine\n(Engine) OSError: no such model\nRuntimeError: Engine core failed\n  bye\n")
    assert log.last_words() == "OSError: no such model"
    log.path.write_text(
        "(API pid=7) WARNING 11-24 [utils.py:2] can cause `OSError: [Errno 24]`\nOSError: no such model\n"
    )
    assert log.last_words() == "OSError: no such model"
    log.path.write_text("INFO fine\nkilled\n")
    assert log.last_words() == "killed"


def test_a_large_log_is_put_aside_at_the_next_start(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "vllm.log")
    with log.path.open("wb") as file:
        file.truncate(MAX_LOG_BYTES + 1)
    log.begin()
    assert not log.path.exists()
    assert (tmp_path / "vllm.log.1").stat().st_size == MAX_LOG_BYTES + 1


# --- what was observed ---


def test_a_start_that_takes_too_long_is_given_up() -> None:
    watch = _watch(now=0, age_s=0)
    assert watch.unready("loading weights", 12) == ("vLLM starting: loading weights, 10 s", False)
    assert watch.unready("loading weights", 101) == ("vLLM was not ready after 100 s (last: loading weights)", True)


def test_an_adopted_server_that_is_late_gets_a_minute_more() -> None:
    watch = _watch(now=0, age_s=500, adopted=True)
    assert not watch.unready("loading weights", UNREADY_LIMIT_S - 1)[1]
    assert watch.unready("loading weights", UNREADY_LIMIT_S + 1)[1]


def test_a_short_failure_of_the_health_check_is_waited_out() -> None:
    watch = _watch(now=0)
    watch.ready(10)
    assert not watch.unready("", 10 + UNREADY_LIMIT_S - 1)[1]
    watch.ready(100)
    assert not watch.unready("", 100 + UNREADY_LIMIT_S - 1)[1]
    assert watch.unready("", 100 + UNREADY_LIMIT_S + 1)[1]


def test_a_server_that_answered_and_falls_silent_is_given_up() -> None:
    watch = _watch(now=0)
    watch.ready(0)
    assert watch.silent("no answer in time", UNANSWERED_LIMIT_S - 1) is None
    assert watch.answered("one two", UNANSWERED_LIMIT_S) is None
    assert watch.silent("no answer in time", UNANSWERED_LIMIT_S + 10) is None
    assert "no answer in time" in str(watch.silent("no answer in time", 2 * UNANSWERED_LIMIT_S + 1))


def test_empty_answers_after_good_ones_mean_a_poisoned_engine() -> None:
    watch = _watch(now=0)
    watch.answered("one two", 0)
    problems = [watch.answered(" ", second) for second in range(1, EMPTY_LIMIT + 1)]
    assert problems[:-1] == [None] * (EMPTY_LIMIT - 1)
    assert "poisoned" in str(problems[-1])


def test_a_model_that_never_answers_the_probe_is_left_alone_but_not_when_adopted() -> None:
    fresh, adopted = _watch(now=0), _watch(now=0, adopted=True)
    assert [fresh.answered("", second) for second in range(5)] == [None] * 5
    assert any(adopted.answered("", second) for second in range(EMPTY_LIMIT))


def test_canaries_are_sent_now_and_then() -> None:
    watch = _watch(now=100)
    assert watch.probe_due(100)
    watch.answered("one", 100)
    assert not watch.probe_due(100 + PROBE_INTERVAL_S - 1)
    assert watch.probe_due(100 + PROBE_INTERVAL_S)


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
) -> Command:
    return command(
        model or ModelConfig(path=Path("/models/chat")),
        serving or ServingConfig(),
        training or TrainingConfig(),
        port=port,
        admin_token=admin_token,
        api_key=api_key,
        cpu=cpu,
    )


def _no_check(adapter: Adapter) -> None:
    pass


def _adapter(folder: Path, *, generation: int = 3) -> Adapter:
    (folder / "adapter_config.json").write_text("{}")
    return Adapter(
        generation=generation,
        name=f"aligned-g{generation:06d}",
        state=AdapterState.CANDIDATE,
        run_id=1,
        created_at=utcnow(),
        updated_at=utcnow(),
        path=str(folder),
        sha256="0" * 64,
    )


class _Process(ServerProcess):
    """A process of a given age that is never looked at."""

    def __init__(self, age_s: float, *, adopted: bool) -> None:
        self._age_s = age_s
        self._is_adopted = adopted

    @property
    def adopted(self) -> bool:
        return self._is_adopted

    def age_s(self) -> float:
        return self._age_s


def _watch(*, now: float, age_s: float = 0, adopted: bool = False) -> Watch:
    return Watch(_Process(age_s, adopted=adopted), start_timeout_s=100, now=now)


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
    argv = command(model, ServingConfig(), TrainingConfig(), port=1, admin_token="t", api_key=None, cpu=cpu).argv
    assert argv[argv.index("--dtype") + 1] == served
