"""Creates the configured fleet and the stage that updates it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from connectors.vllm import VllmServer
from daemon.artifacts import adapter as artifact
from daemon.artifacts.base_layers import target_modules
from daemon.artifacts.base_model import base_fingerprint
from daemon.chat.facts import ChatFacts, chat_facts
from daemon.config import Config
from daemon.config.secret import secret
from daemon.config.serving import AdapterStoreConfig, ModelConfig, ServingConfig
from daemon.config.training import TrainingConfig
from daemon.errors import AdapterInvalidError
from daemon.records import Adapter
from daemon.runtime.leader import current_number
from daemon.serving.discovery import DiscoveryStage, replicas
from daemon.serving.fleet import Fleet, Verify
from daemon.serving.limit import AdaptiveLimit
from daemon.serving.managed import ManagedServer, reachable
from daemon.serving.process import ServerRecord, record_path
from daemon.serving.publisher import Publisher, adapter_store


def verifier(model: ModelConfig, serving: ServingConfig, training: TrainingConfig) -> Verify:
    """The check of an adapter's folder against the served base model and the hash in the store."""

    def verify(adapter: Adapter) -> None:
        manifest = artifact.verify(
            Path(adapter.path or ""),
            name=adapter.name,
            base_fingerprint=base_fingerprint(model.path),
            max_rank=serving.max_lora_rank,
            target_modules=target_modules(model.path, training.target_modules),
            model_path=None if model.quantization else model.path,
        )
        if manifest.weights_sha256 != adapter.sha256:
            raise AdapterInvalidError(
                f"{adapter.path} holds other weights than those evaluated as {adapter.name}; "
                "the adapter must not be loaded, train a new one"
            )

    return verify


def facts_of(config: Config) -> ChatFacts:
    """The facts of the served model's chat template; see `daemon.chat.facts.chat_facts`."""
    return chat_facts(
        config.model.path,
        config.chat,
        cache_dir=config.data_dir / "chat",
        trust_remote_code=config.model.trust_remote_code,
    )


def administered(config: Config, *, timeout_s: float) -> Sequence[VllmServer]:
    """Clients of all running servers for one command of an administrator, in any process. Close them.

    Raises:
        ConfigError: A secret is not set.
        ServingError: The servers cannot be found.
    """
    serving = config.serving
    api_key, token = secret(serving.api_key_env), secret(serving.admin_token_env)
    urls: Sequence[str] = serving.urls
    if serving.mode == "managed":
        record = ServerRecord.read(record_path(config.data_dir))
        urls = [] if record is None else [f"http://{reachable(serving.host)}:{record.port}"]
        token = token or (None if record is None else record.admin_token)
    elif serving.discover is not None:
        urls = replicas(serving.discover)
    return [VllmServer(url, api_key=api_key, admin_token=token, timeout_s=timeout_s) for url in urls]


def open_serving(config: Config) -> tuple[Fleet, ManagedServer | DiscoveryStage | None]:
    """The fleet and the stage that updates it: `managed` keeps one server alive, `discover` follows replicas.

    The stage is None for a fixed list of URLs.

    Raises:
        ConfigError: when a secret is not set, the installed vLLM does not support the section `serving`, or the model
            has no usable chat template.
    """
    serving, facts = config.serving, facts_of(config)
    api_key, admin_token = secret(serving.api_key_env), secret(serving.admin_token_env)
    new_fleet = partial(
        Fleet,
        verify=verifier(config.model, serving, config.training),
        preparation=facts.preparation,
        limit=AdaptiveLimit(**serving.asking.model_dump()),
        publisher=_publisher(serving.adapter_store),
    )
    if serving.mode == "attached":
        connect = partial(
            VllmServer,
            api_key=api_key,
            admin_token=admin_token or "",
            dialect=facts.preparation,
            term=current_number,
        )
        fleet = new_fleet([connect(url) for url in serving.urls])
        if serving.discover is None:
            return fleet, None
        return fleet, DiscoveryStage(
            source=serving.discover,
            interval_s=serving.discover_interval_s,
            connect=connect,
            publish=fleet.replace,
        )
    fleet = new_fleet()
    return fleet, ManagedServer(
        model=config.model,
        serving=serving,
        training=config.training,
        chat=config.chat,
        dialect=facts.preparation,
        data_dir=config.data_dir,
        publish=fleet.replace,
        api_key=api_key,
        admin_token=admin_token,
    )


def _publisher(config: AdapterStoreConfig | None) -> Publisher | None:
    return None if config is None else Publisher(adapter_store(config), timeout_s=config.timeout_s)
