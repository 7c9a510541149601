"""The checks of `check-config` beyond the schema: are the configured files, programs and variables there?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from daemon.config import Config
from daemon.config.database_url import store_url_problem
from daemon.config.intake import KafkaConfig
from daemon.config.masking import _masked
from daemon.errors import ConfigError
from daemon.operations.dangers import dangers
from daemon.operations.model_folder import examine, folder_problems
from daemon.operations.outgoing import outgoing
from daemon.operations.schedule_times import schedule_notes
from daemon.records import utcnow
from daemon.serving.discovery import source_problem
from daemon.training import kubernetes_runner, ray_runner
from daemon.training.examination import Findings


def problems(config: Config) -> list[str]:
    """All problems, each as `key: problem; remedy`. Empty if the daemon can start."""
    return [problem for found in _found(config).values() for problem in found]


def check(config: Config) -> Findings:
    """All problems, dangerous settings, what the configured times mean, and what loading the model shows.

    The model is not loaded if its folder has a problem.
    """
    by_check = _found(config)
    listed = Findings(problems=tuple(problem for found in by_check.values() for problem in found))
    listed += Findings(notes=tuple(dangers(config)))
    if not by_check[_schedule]:
        listed += Findings(notes=tuple(schedule_notes(config, utcnow())))
    return listed if by_check[folder_problems] else listed + examine(config)


def _found(config: Config) -> dict[Callable[[Config], Iterator[str]], list[str]]:
    """The problems by check, in the order in which they are shown."""
    checks = (
        _variables, folder_problems, _folders, _files, _sets, _recipe, _embeddings, _template, _runner, _server,
        _schedule, _induction, _store_url, _http_urls, _brokers,
    )  # fmt: skip
    return {one: list(one(config)) for one in checks}


def http_url_problem(url: str) -> str | None:
    """The problem of an endpoint's base URL, or None."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        return "is not an HTTP URL; write e.g. http://vllm-0:8000"
    return "ends in /v1; leave it out, it is added" if parts.path.rstrip("/").endswith("/v1") else None


def _variables(config: Config) -> Iterator[str]:
    for key, variable in _leaves(config.model_dump()):
        if key.endswith("_env") and isinstance(variable, str) and not os.environ.get(variable):
            yield f"{key}: environment variable {variable} is not set; export it before the daemon starts"


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield from _leaves({str(index): item for index, item in enumerate(value)}, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _folders(config: Config) -> Iterator[str]:
    nearest = next(path for path in (config.data_dir.absolute(), *config.data_dir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        yield f"data_dir: {nearest} is a file; name a folder"
        return
    try:
        # a real write: root has all permissions, even on a read-only file system
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as exc:
        yield f"data_dir: {nearest} cannot be written ({exc.strerror}); change its owner or name another folder"


def _files(config: Config) -> Iterator[str]:
    named: dict[str, Path | None] = {
        f"http.tokens.{index}.token_file": one.token_file for index, one in enumerate(config.http.tokens)
    }
    if (kafka := config.intake.kafka) is not None:
        for key in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            named[f"intake.kafka.{key}"] = getattr(kafka, key)
    for key, path in named.items():
        if path is not None and not os.access(path, os.R_OK):
            yield f"{key}: {path} cannot be read; give an existing file or leave the key out"


def _sets(config: Config) -> Iterator[str]:
    """Read every line, so that a bad line fails check-config and not a nightly run."""
    from daemon.dataset.golden import read_golden_pairs  # noqa: PLC0415
    from daemon.dataset.replay import read_prompts  # noqa: PLC0415
    from daemon.evaluation.suites import golden_items, probe_items  # noqa: PLC0415

    dataset, evaluation = config.dataset, config.evaluation
    reads: list[Callable[[], object]] = [
        partial(read_prompts, dataset.replay_prompts),
        partial(golden_items, evaluation.golden),
        partial(probe_items, evaluation),
    ]
    if dataset.golden_pairs is not False:
        reads.append(partial(read_golden_pairs, dataset.golden_pairs))
    yield from _refused(*reads)


def _refused(*reads: Callable[[], object]) -> Iterator[str]:
    """The ConfigErrors of the reads, as text."""
    for read in reads:
        try:
            read()
        except ConfigError as exc:
            yield str(exc)


def _recipe(config: Config) -> Iterator[str]:
    from daemon.dataset.recipes import AUTO, RECIPES  # noqa: PLC0415

    named = {"dataset.recipe": config.dataset.recipe}
    named |= {f"dataset.recipes.{kind}": name for kind, name in config.dataset.recipes.items()}
    for key, name in named.items():
        if name not in {AUTO, *RECIPES}:
            yield f"{key}: {name!r} is unknown; choose {AUTO}, or one of {', '.join(sorted(RECIPES))}"


def _embeddings(config: Config) -> Iterator[str]:
    folder = config.dataset.embedding_model
    if config.dataset.similarity_by == "words" or folder is None:
        return
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        yield (
            f"dataset.embedding_model: {folder} holds no config.json with *.safetensors; give the folder of a small "
            "Hugging Face model, or null for the served one"
        )


def _template(config: Config) -> Iterator[str]:
    from daemon.reflection.prompts import Prompts  # noqa: PLC0415

    yield from _refused(partial(Prompts, config.reflection.template))


def _runner(config: Config) -> Iterator[str]:
    missing = {"ray": ray_runner.MISSING, "kubernetes": kubernetes_runner.MISSING}
    runner = config.training.runner
    if runner in missing and find_spec(runner) is None:
        yield missing[runner]


def _server(config: Config) -> Iterator[str]:
    """Check for a managed server; attached servers run elsewhere."""
    from daemon.serving.command import VLLM_LORA_RANKS, installed_vllm, runs_on_cpu  # noqa: PLC0415

    if config.serving.mode == "attached":
        return
    if config.serving.max_lora_rank > VLLM_LORA_RANKS[-1]:
        yield f"serving.max_lora_rank: {config.serving.max_lora_rank} is above vLLM's maximum ({VLLM_LORA_RANKS[-1]})"
    installed = installed_vllm()
    if installed is None:
        yield "serving.mode: no vLLM is installed here; install erratad[cpu] or erratad[gpu], or use mode 'attached'"
        return
    yield from _refused(partial(runs_on_cpu, config.serving, installed))


def _schedule(config: Config) -> Iterator[str]:
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415

    schedule = config.schedule
    try:
        ZoneInfo(schedule.timezone)
    except (KeyError, ValueError, OSError):
        yield f"schedule.timezone: {schedule.timezone!r} is no time zone; write a name such as Europe/Berlin or UTC"
    for key, cron in (("schedule.cron", schedule.cron), ("induction.cron", config.induction.cron)):
        try:
            if cron is not None:
                CronTrigger.from_crontab(cron, timezone="UTC")
        except (ValueError, KeyError) as exc:
            yield f"{key}: {cron!r}: {exc}; write five fields, e.g. '0 3 * * *'"


def _induction(config: Config) -> Iterator[str]:
    from daemon.induction.seeds import configured_questions  # noqa: PLC0415

    if config.induction.enabled:
        yield from _refused(partial(configured_questions, config))


def _store_url(config: Config) -> Iterator[str]:
    problem = store_url_problem(config.store_url)
    if problem is not None:
        yield f"store.url: {problem}"


def _http_urls(config: Config) -> Iterator[str]:
    if config.serving.discover is not None and (problem := source_problem(config.serving.discover)) is not None:
        yield f"serving.discover: {problem}"
    for key, called in outgoing(config).items():
        problem = http_url_problem(called.url)
        if called.is_base and problem is not None:
            yield f"{key}: {_masked(called.url)!r} {problem}"


def _brokers(config: Config) -> Iterator[str]:
    kafka: KafkaConfig | None = config.intake.kafka
    for index, server in enumerate(kafka.bootstrap_servers if kafka is not None else []):
        host, _, port = server.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            yield f"intake.kafka.bootstrap_servers.{index}: {server!r} is not host:port; write e.g. kafka-0:9092"
