"""One deployment under attack: the daemon's own store and stages, stepped in turn by one thread."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from connectors.messages import MessageRejected
from daemon.artifacts.examples import Example, read_examples
from daemon.artifacts.run_folder import TRAIN_FILE
from daemon.config import Config, load_config
from daemon.demo.process import CONFIG, model_dir
from daemon.errors import ServingError
from daemon.intake.stage import FeedbackIntake
from daemon.records import IntentKind, ReportState, Run, RunState, Split
from daemon.runtime.stage import Closable, Life, Stage
from daemon.service import _learning_stages, _reflection, _serving_stages
from daemon.serving.connect import facts_of, open_serving
from daemon.serving.fleet import Fleet
from daemon.serving.selftest import SelfTestStage
from daemon.store import Store, open_store
from tests.benchmarks.poison.model import KeptModel, Parrot
from tests.benchmarks.poison.people import Filed

OWNER = "bench-poison"
STALL_S = 1800.0
"""A deployment in which no stage works and nothing changes for this long is a fault of the benchmark."""
NEED_A_SERVER = ("promotion", "traffic", "retention")
WORKING = (ReportState.QUEUED, ReportState.REFLECTING)
SETTINGS = (
    *("reflection.analyst=template", "training.max_tokens=12000", "evaluation.max_items_per_suite=16"),
    *("trust.reproduce.max_tokens=40", "trust.reproduce.concurrency=16"),
    *("serving.port=0", "serving.reconcile_interval_s=0.2", "log.level=error"),
)
"""What differs from configs/demo.yaml, to save hours: fewer tokens to train, fewer items to measure, and answers to
questions asked again that are as long as the flagged ones."""

Say = Callable[[str], None]


def configured(folder: Path, *, defences: Sequence[str], further: Sequence[str] = ()) -> Config:
    """The demo's configuration with its model, in the data directory `folder`; the rest are `key=value` settings."""
    given = [f"model.path={model_dir()}", f"data_dir={folder}", *SETTINGS, *defences, *further]
    return load_config(CONFIG, given)


class Deployment:
    """A daemon's store and stages over one fleet. Close it to stop what the stages run.

    `first` are the stages of the server; without them, nothing that needs a real server is stepped.
    """

    def __init__(self, config: Config, store: Store, fleet: Fleet, first: Sequence[Stage], say: Say) -> None:
        self.config = config
        self.store = store
        self._say = say
        self._intake = FeedbackIntake(reports=store.reports, config=config.intake)
        self._life = Life(threading.Event())
        self._idle = False
        """Whether no stage worked in the last round."""
        stages = [
            *first,
            _reflection(config, store, fleet, OWNER),
            *_learning_stages(config, store, fleet),
            *_serving_stages(config, store, fleet),
        ]
        self._stages: list[Stage] = [stage for stage in stages if first or stage.name not in NEED_A_SERVER]

    def close(self) -> None:
        for stage in self._stages:
            if isinstance(stage, Closable):
                stage.close()

    def file(self, filed: Sequence[Filed]) -> None:
        """Send the reports through the same door as backends do. What it refuses is lost, and said."""
        refused: Counter[str] = Counter()
        for one in filed:
            flagged = one.flagged.model_copy(update={"reporter": one.sender.reporter})
            try:
                self._intake.submit(flagged.encode(), principal=one.sender.principal)
            except MessageRejected as exc:
                refused[str(exc.reason)] += 1
        if refused:
            self._say(f"refused: {dict(refused)}")

    def settle(self) -> None:
        """Until every report has its analysis, and no stage finds any more to do."""
        self._until("analysing", lambda: self._idle and not any(map(self.store.reports.counts().get, WORKING)))

    def prepare(self) -> Run:
        """Start a run by hand, until its dataset is written or it has failed."""
        self.store.intents.request(IntentKind.TRAIN, actor=OWNER, reason="benchmark")
        self._until("preparing", lambda: (run := self._run()) is not None and run.state is not RunState.PREPARING)
        return self._last()

    def finish(self) -> Run:
        """Train and decide, until the candidate is live or rejected."""
        self._until("training and measuring", lambda: self._last().finished_at is not None)
        return self._last()

    def step(self, name: str) -> str:
        """One step of one stage; returns its sentence."""
        [stage] = [stage for stage in self._stages if stage.name == name]
        return stage.step(self._life).sentence

    def examples(self, run: Run) -> list[Example]:
        """What the run trains on, without the ordinary pairs; nothing if it has no dataset."""
        path = Path(run.folder) / TRAIN_FILE
        return list(read_examples(path)) if path.exists() else []

    def used(self, run: Run, role: Split) -> set[str]:
        """Ids of the reports that the run trains on, or holds out."""
        return {item.report_id for item in self.store.runs.items(run.id) if item.role is role}

    def _run(self) -> Run | None:
        runs = self.store.runs.find(limit=1)
        return runs[0] if runs else None

    def _last(self) -> Run:
        run = self._run()
        assert run is not None
        return run

    def _until(self, what: str, done: Callable[[], bool]) -> None:
        told: dict[str, str] = {}
        since = time.monotonic()
        self._idle = False
        while not done():
            worked = False
            for stage in self._stages:
                step = stage.step(self._life)
                worked = worked or step.worked
                if told.get(stage.name) != step.sentence:
                    since = time.monotonic()
                told[stage.name] = step.sentence
                if done():
                    return
            self._idle = not worked
            if not worked and not done():
                time.sleep(0.1)
            if time.monotonic() - since > STALL_S:
                raise ServingError(f"{what} makes no progress: {told}")


@contextmanager
def with_real_model(config: Config, *, kept: Path, say: Say) -> Iterator[tuple[Deployment, KeptModel]]:
    """A deployment with a managed vLLM server and the real trainer."""
    with ExitStack() as closing:
        store = open_store(config)
        closing.callback(store.close)
        fleet, server = open_serving(config)
        assert server is not None
        if isinstance(server, Closable):
            closing.callback(server.close)
        _until_ready(server, fleet, say)
        serving = config.serving
        model = KeptModel(
            fleet.servers[0],
            base_name=serving.base_name,
            guidance=serving.guidance,
            folder=kept,
            weights=lambda name: next((one.sha256 for one in store.adapters.find() if one.name == name), None),
        )
        fleet.replace([model])  # type: ignore[list-item]
        test = SelfTestStage(fleet=fleet, base_name=serving.base_name, facts=partial(facts_of, config))
        deployment = Deployment(config, store, fleet, [server, test], say)
        closing.callback(deployment.close)
        yield deployment, model


@contextmanager
def with_stand_in(config: Config, parrot: Parrot, *, say: Say) -> Iterator[Deployment]:
    """A deployment without a server, for what needs no training: `parrot` answers."""
    with ExitStack() as closing:
        store = open_store(config)
        closing.callback(store.close)
        fleet = Fleet([parrot], verify=lambda _adapter: None)  # type: ignore[list-item]
        fleet.compared({parrot: None})  # type: ignore[dict-item]
        deployment = Deployment(config, store, fleet, [], say)
        closing.callback(deployment.close)
        yield deployment


def _until_ready(server: Any, fleet: Fleet, say: Say) -> None:
    deadline, life = time.monotonic() + 600.0, Life(threading.Event())
    while not fleet.servers or not fleet.servers[0].ready():
        sentence = server.step(life).sentence
        if time.monotonic() > deadline:
            raise ServingError(f"the server did not start: {sentence}")
        time.sleep(0.5)
    say("the server is ready")
