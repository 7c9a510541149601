"""The configuration: typed and immutable, unknown keys are errors. `configs/default.yaml` explains every key.

Read `section` first. YAML never contains secrets: a key that ends in `_env` names the environment variable of one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from connectors.messages import sentences
from daemon.config.archive import ArchiveConfig
from daemon.config.chat import ChatConfig
from daemon.config.dataset import DatasetConfig
from daemon.config.delivery import MlflowConfig, OtlpConfig, OutboxConfig, WebhookConfig
from daemon.config.evaluation import EvaluationConfig, GatePolicy
from daemon.config.induction import InductionConfig
from daemon.config.intake import IntakeConfig
from daemon.config.privacy import PrivacyConfig
from daemon.config.reflection import ReflectionConfig
from daemon.config.rollout import RolloutConfig
from daemon.config.schedule import ScheduleConfig
from daemon.config.section import Positive, Section
from daemon.config.serving import ModelConfig, ServingConfig
from daemon.config.sources import Sources, problems
from daemon.config.training import TrainingConfig
from daemon.config.trust import TrustConfig
from daemon.config.web import HttpConfig
from daemon.errors import ConfigError
from daemon.shipped import CONFIGS


class StoreConfig(Section):
    url: str | None = None
    """None: SQLite in the data directory. The password of a PostgreSQL URL comes from `password_env`."""
    password_env: str | None = None
    lease_s: Annotated[float, Field(ge=2)] = 30.0
    """Seconds that the leader's lease lasts; another daemon leads at most this long, and a sixth, after the last sign
    of the one before."""


class StorageConfig(Section):
    keep_adapters: Positive = 10
    """Number of newest folders kept: of retired adapters, and also of failed, rejected and rolled-back ones."""
    keep_runs_days: Annotated[float, Field(gt=0)] | None = 90.0
    """Run folders (datasets) are removed this long after their run ended; None: never."""
    keep_unused_reports_days: Annotated[float, Field(gt=0)] | None = 90.0
    """Reports that no run used are deleted this long after they came; None: never. See `daemon.store.unused`."""
    archive: ArchiveConfig = ArchiveConfig()


class LogConfig(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class Config(Section):
    data_dir: Path = Path("var")
    model: ModelConfig
    chat: ChatConfig = ChatConfig()
    store: StoreConfig = StoreConfig()
    intake: IntakeConfig = IntakeConfig()
    induction: InductionConfig = InductionConfig()
    reflection: ReflectionConfig = ReflectionConfig()
    trust: TrustConfig = TrustConfig()
    dataset: DatasetConfig = DatasetConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GatePolicy = GatePolicy()
    schedule: ScheduleConfig = ScheduleConfig()
    serving: ServingConfig = ServingConfig()
    rollout: RolloutConfig = RolloutConfig()
    outbox: OutboxConfig = OutboxConfig()
    webhook: WebhookConfig | None = None
    mlflow: MlflowConfig | None = None
    otlp: OtlpConfig | None = None
    storage: StorageConfig = StorageConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _rank_fits(self) -> Self:
        if self.training.rank > self.serving.max_lora_rank:
            raise ValueError(
                f"training.rank ({self.training.rank}) exceeds serving.max_lora_rank ({self.serving.max_lora_rank}): "
                "vLLM would refuse the adapter"
            )
        return self

    @model_validator(mode="after")
    def _senders_are_told_apart(self) -> Self:
        if found := "; ".join(problems(self.intake, self.http)):
            raise ValueError(found)
        return self

    @property
    def sources(self) -> Sources:
        return Sources(self.intake)

    @property
    def adapters_dir(self) -> Path:
        return self.data_dir / "adapters"

    @property
    def runs_dir(self) -> Path:
        return self.data_dir / "runs"

    @property
    def archive_dir(self) -> Path:
        return self.storage.archive.folder or self.data_dir / "archive"

    @property
    def store_url(self) -> str:
        return self.store.url or f"sqlite:///{(self.data_dir / 'erratad.sqlite3').absolute()}"


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file and apply `a.b.c=value` overrides (values are YAML).

    Raises:
        ConfigError: names the file and every wrong key.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}; give an existing file with --config") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not YAML: {exc}") from exc
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, e.g. 'model: {{path: ...}}'")
    for override in overrides or []:
        _apply(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as exc:
        lines = [f"  {line}" for line in sentences(exc.errors(), whole="config")]
        raise ConfigError(
            "\n".join([f"{path} is not valid; {CONFIGS / 'default.yaml'} explains every key:", *lines])
        ) from exc


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r}: write section.key=value")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ConfigError(f"--set {override!r}: the value is not YAML: {exc}") from exc
