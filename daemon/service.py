"""Read this first: the one page that wires every part, and the order in which they start and stop.

One report walks: connectors.kafka -> ingest -> reflection -> (schedule) -> dataset -> finetune -> evaluation, gate ->
promotion -> live adapter. Each is a stage: a thread that makes small steps. They share nothing but the store; no part
imports this module or knows the others.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import structlog
import uvicorn

from daemon import __version__, log, metrics
from daemon.analyst import analyst_of
from daemon.api import create_app
from daemon.config import Config
from daemon.dataset import DatasetStage
from daemon.errors import ConfigError, StoreUnavailableError
from daemon.evaluation import EvaluationStage
from daemon.events import Events
from daemon.finetune import FinetuneStage
from daemon.gauges import GaugesStage
from daemon.health import Health
from daemon.ingest import FeedbackDoor, Ingest
from daemon.leader import Leader, LeaderOnly
from daemon.promotion import Promotion
from daemon.reflection import ReflectionStage
from daemon.schedule import ScheduleStage
from daemon.serving import open_serving
from daemon.stage import Pulse, Stage, run_stage
from daemon.store import Store, open_store
from daemon.vllm_process import end_left_over

logger = structlog.get_logger(__name__)

STORE_WAIT_S = 60.0
STORE_RETRY_S = 2.0
EXIT_FAILED, EXIT_UNREACHABLE = 1, 3


def serve(config: Config) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code: 0 after an orderly stop, not 0 when a part failed."""
    log.configure(config.log)
    metrics.BUILD.info({"version": __version__})
    stop = threading.Event()
    with _sole_owner(config.data_dir), _signals(stop, config.data_dir):
        store = _open_store(config, stop)
        if store is None:
            return 0 if stop.is_set() else EXIT_UNREACHABLE
        try:
            return _run(config, store, stop)
        finally:
            store.close()


def _run(config: Config, store: Store, stop: threading.Event) -> int:
    owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    pulse = Pulse()
    fleet, server = open_serving(config)
    # `_sole_owner` makes this name this process's own, and a restarted daemon leads again at once under it
    leader = Leader(
        store.control, str(uuid.uuid5(uuid.NAMESPACE_URL, f"//{socket.gethostname()}{config.data_dir.absolute()}"))
    )
    with ExitStack() as closing:
        # closed in reverse, after every thread has ended: intake leaves its group first, the vLLM server goes last
        if server is not None:
            closing.callback(server.close)
        schedule = ScheduleStage(
            store=store,
            schedule=config.schedule,
            dataset=config.dataset,
            alias=config.serving.alias,
            runs_dir=config.runs_dir,
        )
        closing.callback(schedule.close)
        stages: list[Stage] = [
            ReflectionStage(
                reports=store.reports,
                analyst=analyst_of(
                    config.reflection, fleet=fleet, adapters=store.adapters, base_name=config.serving.base_name
                ),
                config=config.reflection,
                guidance=config.serving.guidance,
                owner=owner,
                pulse=pulse,
            ),
            *(
                LeaderOnly(stage, leader)
                for stage in (
                    schedule,
                    DatasetStage(
                        reports=store.reports,
                        runs=store.runs,
                        servers=fleet,
                        config=config.dataset,
                        base_name=config.serving.base_name,
                        model_path=config.model.path,
                        cache_dir=config.data_dir / "replay",
                    ),
                    FinetuneStage(
                        runs=store.runs,
                        adapters=store.adapters,
                        config=config.training,
                        model_path=config.model.path,
                        adapters_dir=config.adapters_dir,
                        beat=partial(pulse.beat, "finetune"),
                    ),
                    EvaluationStage(
                        store=store,
                        fleet=fleet,
                        evaluation=config.evaluation,
                        policy=config.gate,
                        serving=config.serving,
                        beat=partial(pulse.beat, "evaluation"),
                    ),
                    Promotion(serving=config.serving, store=store, fleet=fleet),
                )
            ),
        ]
        ingest: Ingest | None = None
        if config.intake.kafka is not None:
            ingest = Ingest.connect(kafka=config.intake.kafka, config=config.intake, reports=store.reports)
            events = Events.connect(kafka=config.intake.kafka, control=store.control)
            stages += [ingest, events]
            closing.callback(events.close)
            closing.callback(ingest.close)
        if server is not None:
            stages.append(server)
        stages.append(GaugesStage(store=store, stages=[stage.name for stage in stages]))
        health = Health(
            pulse=pulse,
            store=store,
            fleet=fleet,
            base_name=config.serving.base_name,
            max_stall_s=config.http.max_stall_s,
            intake_connected=None if ingest is None else lambda: ingest.connected,
        )
        door = FeedbackDoor(reports=store.reports, config=config.intake)
        http = uvicorn.Server(
            uvicorn.Config(
                create_app(store=store, door=door, config=config, health=health),
                host=config.http.host,
                port=config.http.port,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=10,
            )
        )
        parts: dict[str, Callable[[], None]] = {
            stage.name: partial(run_stage, stage, control=store.control, pulse=pulse, owner=owner, stop=stop)
            for stage in stages
        }
        parts["leader"] = partial(leader.run, stop)
        parts["http"] = http.run
        return _supervise(parts, stop, on_stop=lambda: setattr(http, "should_exit", True))


def _supervise(parts: dict[str, Callable[[], None]], stop: threading.Event, *, on_stop: Callable[[], None]) -> int:
    """Run every part in a thread; the first one that ends, for whatever reason, ends them all."""
    with ThreadPoolExecutor(max_workers=len(parts)) as pool:
        names = {pool.submit(part): name for name, part in parts.items()}
        stopper = pool_stop(stop, names)
        stop.set()
        on_stop()
        logger.info("stopping", because=stopper)
        wait(names)
    failed = False
    for future, name in names.items():
        error = future.exception()
        if error is not None:
            failed = True
            logger.error("part_failed", part=name, exc_info=error)
    return EXIT_FAILED if failed or stopper != "signal" else 0


def pool_stop(stop: threading.Event, names: dict[Future[None], str]) -> str:
    """Wait for a signal or for a part that ends; returns which it was."""
    while not stop.is_set():
        done, _ = wait(names, timeout=0.5, return_when=FIRST_COMPLETED)
        if done and not stop.is_set():
            return ", ".join(sorted(names[future] for future in done))
    return "signal"


def _open_store(config: Config, stop: threading.Event) -> Store | None:
    """Open the database; wait for one that is still starting, but not for ever."""
    deadline = time.monotonic() + STORE_WAIT_S
    while not stop.is_set():
        try:
            return open_store(config)
        except StoreUnavailableError as exc:
            logger.warning("store_unavailable", error=str(exc))
            if time.monotonic() > deadline:
                return None
            stop.wait(STORE_RETRY_S)
    return None


@contextmanager
def _sole_owner(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process.

    Raises:
        ConfigError: when another daemon holds it, or it cannot be written.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with (data_dir / "erratad.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise ConfigError(
                    f"data_dir: another erratad runs on {data_dir}; stop it, or give this one a directory of its own"
                ) from exc
            yield
    except PermissionError as exc:
        raise ConfigError(f"data_dir: {data_dir} cannot be written: {exc.strerror}") from exc


@contextmanager
def _signals(stop: threading.Event, data_dir: Path) -> Iterator[None]:
    """The first SIGTERM or SIGINT asks for an orderly stop; the second one ends daemon and vLLM server at once."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            end_left_over(data_dir, grace_s=0.0)
            os._exit(128 + number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
