"""Read this first: it wires all parts, and defines the order in which they start and stop.

The path of a report: connectors.kafka -> ingest (or induction) -> reflection -> (schedule) -> dataset -> finetune ->
evaluation, gate -> promotion -> live adapter. Each is a stage: a thread that makes small steps. The parts share only
the store; no part imports this module or another part.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import structlog
import uvicorn

from daemon import __version__, metrics
from daemon.chat.reader import Reader
from daemon.config import Config
from daemon.config.secret import secret
from daemon.config.web import HttpConfig
from daemon.dataset.stage import DatasetStage
from daemon.delivery.events import KafkaSink
from daemon.delivery.mlflow import MlflowSink
from daemon.delivery.otlp import OtlpSink
from daemon.delivery.outbox import OutboxStage
from daemon.delivery.stage import DeliveryStage, EventSink
from daemon.delivery.webhook import WebhookSink
from daemon.errors import ConfigError, StoreUnavailableError
from daemon.evaluation.stage import EvaluationStage
from daemon.evaluation.votes import Trust
from daemon.evidence.completions import CompletionsStage
from daemon.evidence.stage import EvidenceStage
from daemon.induction.stage import InductionStage
from daemon.intake.stage import FeedbackIntake, IngestStage
from daemon.operations.archiving import ArchiveStage
from daemon.operations.dangers import dangers
from daemon.operations.gauges import GaugesStage, WhenScraped
from daemon.operations.health import Health
from daemon.operations.retention import RetentionStage
from daemon.privacy.redact import Redactor
from daemon.promotion.stage import PromotionStage
from daemon.promotion.traffic import TrafficStage
from daemon.promotion.voters import electorate
from daemon.promotion.watch import WatchStage
from daemon.records import Report
from daemon.reflection.analyst import analyst_of, judge_of
from daemon.reflection.best_of import served_model_scorer
from daemon.reflection.stage import ReflectionStage
from daemon.runtime import log
from daemon.runtime.address import Address, announce
from daemon.runtime.heartbeats import Heartbeats
from daemon.runtime.leader import Leader, LeaderOnly
from daemon.runtime.lookout import look_out
from daemon.runtime.stage import Closable, LastSteps, Stage, run_stage
from daemon.runtime.supervise import run_together, sole_owner, stop_signals
from daemon.schedule import ScheduleStage
from daemon.serving.connect import facts_of, open_serving
from daemon.serving.fleet import Fleet
from daemon.serving.process import end_left_over
from daemon.serving.selftest import SelfTestStage
from daemon.store import Store, open_store
from daemon.store.outbox import KAFKA
from daemon.training.stage import FinetuneStage
from daemon.trust.policy import Policy
from daemon.trust.standing import Standing, Standings
from daemon.web.app import create_app
from daemon.web.server import HttpServer

logger = structlog.get_logger(__name__)

STORE_WAIT_S = 60.0
STORE_RETRY_S = 2.0
HTTP_GRACE_S = 10
EXIT_OK, EXIT_FAILED, EXIT_UNREACHABLE = 0, 1, 3


def serve(config: Config) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code: 0 after an orderly stop, not 0 if a part failed."""
    log.configure(config.log)
    for danger in dangers(config):
        logger.warning("dangerous setting", found=danger)
    metrics.BUILD.info({"version": __version__})
    stop = threading.Event()
    with (
        sole_owner(config.data_dir),
        stop_signals(stop, partial(end_left_over, config.data_dir, grace_s=0.0)),
        _addresses(config.http) as addresses,
    ):
        store = _open_store(config, stop)
        if store is None:
            return EXIT_OK if stop.is_set() else EXIT_UNREACHABLE
        try:
            return EXIT_OK if _run(config, store, stop, addresses) else EXIT_FAILED
        finally:
            store.close()


@contextmanager
def _addresses(http: HttpConfig) -> Iterator[list[socket.socket]]:
    """Take the addresses of `http`, before anything else is started. Nobody can connect until the server listens.

    Raises:
        ConfigError: An address is in use, or is none of this machine.
    """
    with ExitStack() as closing:
        taken = []
        try:
            for family, kind, _, _, address in socket.getaddrinfo(http.host, http.port, type=socket.SOCK_STREAM):
                one = closing.enter_context(socket.socket(family, kind))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind(address)
                taken.append(one)
        except OSError as exc:
            where = f"{http.host}, port {http.port}"
            raise ConfigError(f"http: cannot listen on {where}: {exc.strerror}; change http.host or http.port") from exc
        yield taken


def _open_store(config: Config, stop: threading.Event) -> Store | None:
    """Open the database. Waits up to `STORE_WAIT_S` for a database that is still starting; then None."""
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


def _run(config: Config, store: Store, stop: threading.Event, addresses: list[socket.socket]) -> bool:
    host = socket.gethostname()
    owner = f"{host}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    # `sole_owner` makes this name unique; a restarted daemon gets the same name, and so leads at once
    name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"//{host}{config.data_dir.absolute()}"))
    leader = Leader(store.control, store.changes.commits, name, lease_s=config.store.lease_s)
    url = config.http.open_url
    announce(config.data_dir, None if url is None else Address(url=url, owner=owner))
    last_steps = LastSteps()
    fleet, server = open_serving(config)
    # closed in reverse order after all threads have ended: intake leaves its group first, the vLLM server ends last
    with ExitStack() as closing:
        ingest = _ingest(config, store)
        configured = [
            server,
            SelfTestStage(fleet=fleet, base_name=config.serving.base_name, facts=partial(facts_of, config)),
            *_stages(config, store, fleet, owner=owner, leader=leader),
            _events(config, store),
            ingest,
        ]
        stages: list[Stage] = [stage for stage in configured if stage is not None]
        for stage in stages:
            if isinstance(stage, Closable):
                closing.callback(stage.close)
        metrics.REPORTS_EXPECTED.set(config.intake.expect_report_within_h * 3600)
        stages.append(
            WhenScraped(
                GaugesStage(
                    store=store,
                    policy=Policy.of(config),
                    serving=config.serving,
                    data_dir=config.data_dir,
                    stages=[stage.name for stage in stages],
                )
            )
        )
        http = _http(config, store, fleet, last_steps, ingest)
        heartbeats = Heartbeats(store.control, owner=owner)
        run = partial(
            run_stage,
            control=store.control,
            commits=store.changes.commits,
            heartbeats=heartbeats,
            last_steps=last_steps,
            stop=stop,
        )
        parts: dict[str, Callable[[], None]] = {stage.name: partial(run, stage) for stage in stages}
        parts |= {
            "leader": partial(leader.run, stop),
            "lookout": partial(look_out, store.changes, stop),
            "http": partial(http.run, addresses),
        }
        gc.collect()
        gc.freeze()  # what exists now stays: the collector need not visit all modules again and again
        return run_together(parts, stop, on_stop=http.stop)


def _stages(config: Config, store: Store, fleet: Fleet, *, owner: str, leader: Leader) -> list[Stage]:
    """The stages from a stored report to a live adapter, in this order. Only reflection acts in every daemon."""
    led = [
        *_learning_stages(config, store, fleet),
        *_serving_stages(config, store, fleet),
        *_delivery_stages(config, store),
    ]
    return [_reflection(config, store, fleet, owner), *(LeaderOnly(stage, leader) for stage in led)]


def _reflection(config: Config, store: Store, fleet: Fleet, owner: str) -> ReflectionStage:
    base_name = config.serving.base_name
    return ReflectionStage(
        store=store,
        config=config.reflection,
        analyst=analyst_of(config.reflection, fleet=fleet, adapters=store.adapters, base_name=base_name),
        score=served_model_scorer(fleet, store.adapters, base_name=base_name),
        preparation=fleet.preparation,
        policy=Policy.of(config),
        guidance=config.serving.guidance,
        owner=owner,
        judge=judge_of(config.evaluation),
        asking=fleet.asking,
    )


def _learning_stages(config: Config, store: Store, fleet: Fleet) -> list[Stage]:
    """The stages that find mistakes and their evidence, start runs, and bring a run to its verdict."""
    policy = Policy.of(config)
    reader = partial(
        Reader,
        model_path=config.model.path,
        chat=config.chat,
        trust_remote_code=config.model.trust_remote_code,
    )
    return [
        InductionStage(store=store, fleet=fleet, config=config),
        CompletionsStage(
            store=store, fleet=fleet, intake=config.intake, serving=config.serving, limits=config.sources.limits
        ),
        EvidenceStage(
            store=store,
            fleet=fleet,
            config=config.trust,
            serving=config.serving,
            trusted=policy.is_trusted,
            clean=Redactor(config).clean,
        ),
        ScheduleStage(
            store=store,
            config=config.schedule,
            dataset=config.dataset,
            policy=policy,
            alias=config.serving.alias,
            runs_dir=config.runs_dir,
        ),
        DatasetStage(
            store=store,
            fleet=fleet,
            config=config.dataset,
            serving=config.serving,
            training=config.training,
            policy=policy,
            reader=reader,
            model_path=config.model.path,
            data_dir=config.data_dir,
            check_chat=fleet.check_chat,
            is_trusted=config.sources.is_trusted,
        ),
        FinetuneStage(
            store=store,
            config=config.training,
            chat=config.chat,
            model=config.model,
            adapters_dir=config.adapters_dir,
            check_chat=fleet.check_chat,
        ),
        EvaluationStage(
            store=store,
            fleet=fleet,
            config=config.evaluation,
            gate=config.gate,
            serving=config.serving,
            reader=reader,
            similarity=config.dataset.same_by_words,
            trust=_trust(policy, store),
            strengths=config.training.strengths,
        ),
    ]


def _trust(policy: Policy, store: Store) -> Trust:
    """What the gate may go by."""
    standings = Standings(policy, store.witnesses)

    def standing(report: Report) -> Standing:
        return standings.of(report, store.reports.lesson(report.id))

    return Trust(
        counts=lambda report: bool(standing(report).gate),
        confirmed=lambda report: bool(standing(report).correction),
        vouched=policy.trusts,
    )


def _serving_stages(config: Config, store: Store, fleet: Fleet) -> list[Stage]:
    """The stages that make an accepted adapter live, watch it, and remove or archive what is old."""
    voters = electorate(Policy.of(config))
    return [
        PromotionStage(store=store, fleet=fleet, config=config.rollout, serving=config.serving, voters=voters),
        TrafficStage(store=store, fleet=fleet),
        WatchStage(store=store, config=config.rollout.watch, voters=voters),
        RetentionStage(
            store=store,
            fleet=fleet,
            config=config.storage,
            adapters_dir=config.adapters_dir,
            runs_dir=config.runs_dir,
        ),
        *([] if config.storage.archive.after_days is None else [ArchiveStage(store, config)]),
    ]


def _delivery_stages(config: Config, store: Store) -> list[Stage]:
    """The stages that deliver events to the configured sinks besides Kafka, and delete old events."""
    sinks: list[EventSink] = []
    if config.webhook is not None:
        sinks.append(WebhookSink.connect(config.webhook, secret=secret(config.webhook.secret_env) or ""))
    if config.mlflow is not None:
        sinks.append(MlflowSink.connect(config.mlflow, store=store, alias=config.serving.alias))
    if config.otlp is not None:
        sinks.append(OtlpSink.connect(config.otlp, store=store, alias=config.serving.alias))
    subscriptions = [*([] if config.intake.kafka is None else [KAFKA]), *(sink.subscription for sink in sinks)]
    return [
        OutboxStage(store=store, config=config.outbox, subscriptions=subscriptions),
        *(DeliveryStage(store=store, sink=sink) for sink in sinks),
    ]


def _events(config: Config, store: Store) -> DeliveryStage | None:
    kafka = config.intake.kafka
    return None if kafka is None else DeliveryStage(store=store, sink=KafkaSink.connect(kafka))


def _ingest(config: Config, store: Store) -> IngestStage | None:
    """Kafka's intake, or None if it is not configured. HTTP intake works in both cases."""
    kafka = config.intake.kafka
    return (
        None
        if kafka is None
        else IngestStage.connect(
            store=store,
            config=config.intake,
            kafka=kafka,
            memory=config.data_dir / "intake.json",
            redactor=Redactor(config),
            letters=config.privacy.dead_letters,
            exchanges=config.serving.exchanges.enabled,
        )
    )


def _http(config: Config, store: Store, fleet: Fleet, last_steps: LastSteps, ingest: IngestStage | None) -> HttpServer:
    health = Health(
        last_steps=last_steps,
        store=store,
        fleet=fleet,
        base_name=config.serving.base_name,
        max_stall_s=config.http.max_stall_s,
        intake_connected=None if ingest is None else lambda: ingest.connected,
    )
    exchanges = config.serving.exchanges.enabled
    intake = FeedbackIntake(reports=store.reports, config=config.intake, exchanges=exchanges)
    return HttpServer(
        uvicorn.Config(
            create_app(store=store, intake=intake, config=config, health=health),
            log_config=None,
            access_log=False,
            proxy_headers=False,  # `daemon.web.access` needs the real peer's address for http.proxy.addresses
            timeout_graceful_shutdown=HTTP_GRACE_S,
        )
    )
