"""A new configuration for a model: the commented file that `erratad init` writes, and what it says about the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.artifacts.base_layers import read_config
from daemon.config import Config, load_config
from daemon.errors import ConfigError
from daemon.operations.model_folder import longest_context
from daemon.operations.preflight import check
from daemon.shipped import CONFIGS
from daemon.training.examination import Findings

LONGEST = 8192
"""Tokens of a conversation; a longer context costs memory that few deployments need."""
SHORTEST_TRAINED = 1024
"""The default of training.max_sequence_tokens."""
GIB = 2**30

TEMPLATE = """\
# Written by `erratad init` for {name}.
# It has the keys that you may want to change; {defaults} explains every key.
# Check after changes: erratad check-config -c THIS_FILE

# Database, datasets and adapters.
data_dir: var

model:
  path: {path}

intake:
  # Your chat backend sends reports by POST /v1/feedback. With Kafka, too: {{bootstrap_servers: ["localhost:9092"]}}
  kafka: null
  # Senders that you vouch for: the model gave the answers that they report. Others need evidence first (docs/trust.md).
  # With http.token_env below, that token is: [{{name: backend, token: admin, trusted: true}}]
  sources: []

store:
  # null: SQLite in data_dir. PostgreSQL: postgresql://erratad@localhost:5432/erratad, with password_env
  url: null

training:
  # For a model of {billions} billion parameters.
  learning_rate: {learning_rate}
  # Longer examples are left out.
  max_sequence_tokens: {trained}
{small}
serving:
  # vLLM runs as a child of the daemon. For servers of your own: mode: attached, with urls and admin_token_env.
  mode: managed
  # Backends ask for this name.
  alias: aligned
  # {context}.
  max_model_len: {served}
  # On one GPU that trains, too, leave it room: gpu_memory_utilization: 0.45
  # On a CPU: memory for the cache, in GiB.
  cpu_kv_cache_gib: 1

schedule:
  # A training every night, if there are enough new lessons.
  cron: "0 3 * * *"

http:
  # On loopback there is no sign-in. For another address, name the variable with the token:
  # host: 0.0.0.0
  # token_env: ERRATAD_TOKEN
  port: 8077

log:
  format: text
"""
SMALL = """\
  # Small models change little with the defaults; settings for one of 0.1 billion parameters:
  # {demo}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the files of a model's folder show."""

    context: int | None
    """The longest conversation that the model takes, in tokens; None: config.json does not say."""
    weight_bytes: int
    cache_bytes_per_token: int | None
    """Of the key-value cache, at 2 bytes per number; None: config.json does not say."""
    billions: float
    """Of parameters, by the size of the files: half of the truth for weights of 4 bytes that are not marked so."""

    @classmethod
    def read(cls, folder: Path) -> ModelFacts:
        """Raises ConfigError if there is no config.json."""
        values = read_config(folder)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        wide = str(values.get("dtype") or values.get("torch_dtype")) == "float32"
        return cls(
            context=longest_context(values),
            weight_bytes=size,
            cache_bytes_per_token=_cache_bytes({**values, **values.get("text_config", {})}),
            billions=size / (4 if wide else 2) / 1e9,
        )

    def notes(self) -> Iterator[str]:
        cache = self.cache_bytes_per_token
        each = "" if cache is None else f" of {cache / 1024:.0f} KiB per token of each conversation"
        yield (
            f"memory: the weights take {_size(self.weight_bytes)}; a server needs them and a cache{each}, "
            "and a training needs the weights once more"
        )
        if self.context is not None:
            yield f"serving.max_model_len: the model takes up to {self.context} tokens"


def find_model(named: str) -> Path:
    """The folder of a model, given by its path, or by its name on the Hugging Face hub if it was downloaded.

    Raises:
        ConfigError: names the command that downloads it.
    """
    folder = Path(named).expanduser()
    if folder.is_dir():
        return folder.absolute()
    looks_like_a_name = named.count("/") == 1 and not named.startswith((".", "/", "~"))
    if looks_like_a_name:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - comes with transformers; takes half a second
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

        try:
            return Path(snapshot_download(named, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            target = f"models/{named.rpartition('/')[2].lower()}"
            raise ConfigError(
                f"there is no folder {named}, and no model of this name has been downloaded; download it with "
                f"`hf download {named} --local-dir {target}`, then run `erratad init --model {target}`"
            ) from None
    raise ConfigError(
        f"there is no folder {folder}; give the folder of a Hugging Face model, or a name such as Qwen/Qwen3-8B"
    )


def new_config(folder: Path, *, named: str) -> str:
    """The text of a configuration for the model in this folder. Raises ConfigError if it holds no model."""
    facts = ModelFacts.read(folder)
    limit = facts.context or LONGEST
    context = "Longest conversation with its answer, in tokens; " + (
        "the model's limit is not known" if facts.context is None else f"the model takes up to {facts.context}"
    )
    return TEMPLATE.format(
        name=" ".join(named.split()),
        defaults=CONFIGS / "default.yaml",
        path=json.dumps(str(folder), ensure_ascii=False),
        billions=f"{facts.billions:.1f}" if facts.billions >= 0.1 else "under 0.1",
        learning_rate=_learning_rate(facts.billions),
        trained=min(SHORTEST_TRAINED, limit),
        small=SMALL.format(demo=CONFIGS / "demo.yaml") if facts.billions < 1 else "",
        context=context,
        served=min(LONGEST, limit),
    )


def written(text: str, out: Path) -> Findings:
    """Write the configuration, and check it as `check-config` does, with what the model's files show as further notes.

    Raises:
        ConfigError: if the file cannot be written.
    """
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot write {out}: {exc.strerror}; choose another file with --out") from exc
    config: Config = load_config(out)
    return Findings(notes=tuple(ModelFacts.read(config.model.path).notes())) + check(config)


def _learning_rate(billions: float) -> str:
    if billions < 0.5:
        return "4.0e-4"
    return "2.0e-4" if billions < 4 else "1.0e-4"


def _cache_bytes(model: Mapping[str, Any]) -> int | None:
    try:
        heads = int(model["num_attention_heads"])
        size = int(model.get("head_dim") or int(model["hidden_size"]) // heads)
        return 2 * 2 * int(model["num_hidden_layers"]) * int(model.get("num_key_value_heads") or heads) * size
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"
