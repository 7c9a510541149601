"""Sink of stage "mlflow": one MLflow run per training, adapters as model versions, aliases for live and trial.

An event only says which generation has changed: MLflow is then brought to the store's state of now. So an event that
comes twice, late, or was given up leaves nothing wrong behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from connectors.messages import Event, EventType
from connectors.mlflow import MlflowError, MlflowServer, MlflowUnavailableError, ModelVersion, auth_of
from daemon.config.delivery import MlflowConfig
from daemon.config.secret import secret
from daemon.delivery.retries import Retries
from daemon.delivery.stage import SinkUnavailableError
from daemon.delivery.training_run import manifest_of, training_run
from daemon.records import Adapter
from daemon.runtime.stage import Life
from daemon.store import Store
from daemon.store.outbox import Attempt, Backlog, Due, Sink, Subscription

CHAMPION, CHALLENGER = "champion", "challenger"


class MlflowSink:
    name = "mlflow"
    idle_s = 5.0
    batch = 20
    target = "MLflow"
    subscription = Subscription(
        sink=Sink.MLFLOW,
        types=(
            EventType.ADAPTER_ON_TRIAL,
            EventType.ADAPTER_PROMOTED,
            EventType.ADAPTER_REJECTED,
            EventType.ADAPTER_ROLLED_BACK,
        ),
    )

    def __init__(self, *, store: Store, server: MlflowServer, config: MlflowConfig, alias: str) -> None:
        self._store = store
        self._server = server
        self._upload = config.upload_adapters
        self._alias = alias
        self._retries = Retries(Sink.MLFLOW, max_attempts=config.max_attempts, backoff_s=config.backoff_s)

    @classmethod
    def connect(cls, config: MlflowConfig, *, store: Store, alias: str) -> MlflowSink:
        """Make the sink. It connects at the first event. Raises ConfigError if a secret is not set."""
        server = MlflowServer(
            config.tracking_uri,
            experiment=config.experiment,
            model=config.registered_model or alias,
            timeout_s=config.timeout_s,
            auth=auth_of(
                token=secret(config.token_env),
                username=secret(config.username_env),
                password=secret(config.password_env),
            ),
        )
        return cls(store=store, server=server, config=config, alias=alias)

    def send(self, due: Sequence[Due], life: Life) -> Iterator[Sequence[Attempt]]:
        """Send one event after the other; the first refusal ends the step."""
        for one in due:
            if life.stopping:
                return
            life.heartbeat()
            try:
                self._deliver(one.event)
            except MlflowUnavailableError as exc:
                raise SinkUnavailableError(str(exc)) from exc
            except MlflowError as exc:
                yield [self._retries.refused(one, str(exc))]
                return
            yield [self._retries.delivered(one)]

    def show(self, backlog: Backlog) -> None:
        self._retries.show(backlog)

    def close(self) -> None:
        self._server.close()

    def _deliver(self, event: Event) -> None:
        live, trial = self._store.adapters.live().generation, self._store.trials.current()
        candidate = None if trial is None else trial.generation
        changed = {event.data.get(name) for name in ("generation", "previous")}
        generations = {one for one in (*changed, live, candidate) if isinstance(one, int)}
        versions = {one: self._version(self._store.adapters.get(one)) for one in sorted(generations)}
        challenger = None if candidate is None else versions[candidate]
        self._server.set_aliases({CHAMPION: versions[live], CHALLENGER: challenger})

    def _version(self, adapter: Adapter) -> str | None:
        """The adapter's version in MLflow, made if there is none. The base model has none."""
        if adapter.run_id is None:
            return None
        run, verdict = self._store.runs.get(adapter.run_id), self._store.runs.verdict(adapter.run_id)
        run_id = self._server.record(training_run(run, adapter, verdict, alias=self._alias))
        return self._server.register(run_id, self._model_version(adapter))

    def _model_version(self, adapter: Adapter) -> ModelVersion:
        tags = {
            "erratad.generation": str(adapter.generation),
            "erratad.adapter": adapter.name,
            "erratad.run_id": str(adapter.run_id),
            "erratad.state": adapter.state.value,
        }
        weights = {} if adapter.sha256 is None else {"erratad.weights_sha256": adapter.sha256}
        there = self._upload and manifest_of(adapter) is not None
        return ModelVersion(
            source=f"erratad://{self._alias}{Path(adapter.path or adapter.name).absolute()}",
            folder=Path(str(adapter.path)) if there else None,
            tags={**tags, **weights},
        )
