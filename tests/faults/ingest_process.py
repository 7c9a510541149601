"""`python -m tests.faults.ingest_process STORE_URL KAFKA_JSON`: the stage "ingest" as a process, until SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import closing

from daemon.config.intake import IntakeConfig, KafkaConfig
from daemon.intake.stage import IngestStage
from daemon.runtime.heartbeats import Heartbeats
from daemon.runtime.stage import LastSteps, run_stage
from daemon.store import open_store


def main(store_url: str, kafka_json: str) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with closing(open_store(store_url)) as store:
        stage = IngestStage.connect(
            store=store, config=IntakeConfig(), kafka=KafkaConfig.model_validate_json(kafka_json)
        )
        with closing(stage):
            beats = Heartbeats(store.control, owner=f"process-{os.getpid()}")
            run_stage(
                stage,
                control=store.control,
                commits=store.changes.commits,
                heartbeats=beats,
                last_steps=LastSteps(),
                stop=stop,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
