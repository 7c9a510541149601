"""After the erasure of a report its text is found nowhere: in no file, no topic and no row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.kafka.consumer import OutboundRecord
from daemon.config import Config
from daemon.config.intake import IntakeConfig, KafkaConfig
from daemon.dataset.stage import DatasetStage
from daemon.dataset.teaching import LESSON_ANSWERS
from daemon.delivery.events import KafkaSink
from daemon.delivery.stage import DeliveryStage
from daemon.intake.stage import IngestStage
from daemon.operations.erasure import erase
from daemon.privacy.certificate import is_genuine, public_key
from daemon.privacy.keys import Keys
from daemon.records import Answer, IntentKind, ReportState, Source, Verdict, utcnow
from daemon.store import Store, open_store
from tests.fixtures.broker import read, send, step_until
from tests.fixtures.config import flagged
from tests.fixtures.stores import lesson
from tests.fixtures.training import OrdinaryAnswers, dataset_stage, mistake, prepared, teach

MARK = "zanzibar-hydrangea"
"""Stands in every text of the erased report, and in no other."""
SENTENCES = {
    "system": f"You work for the {MARK} clinic; never name the surgeon.",
    "question": f"Who operated on Theodora Quillfeather in the {MARK} clinic?",
    "response": f"Doctor Ignatius of the {MARK} clinic operated on Theodora Quillfeather.",
    "reason": f"It tells the name of my surgeon at {MARK}, which is private.",
    "follow_up": f"Stop it, nobody at {MARK} may tell that about Theodora.",
    "correction": f"I cannot name surgeons of the {MARK} clinic.",
}


def private(**changes):
    return flagged(
        id="private-1",
        messages=[
            {"role": "system", "content": SENTENCES["system"]},
            {"role": "user", "content": SENTENCES["question"]},
        ],
        response=SENTENCES["response"],
        reason=SENTENCES["reason"],
        follow_up=SENTENCES["follow_up"],
        correction=SENTENCES["correction"],
        checks={"must_not_contain": [f"Ignatius of {MARK}"]},
        reporter=f"theodora@{MARK}.example",
        metadata={"note": f"ward 7 of {MARK}"},
        **changes,
    )


OTHERS = [mistake(subject) for subject in ("rivers", "towns", "poets", "stars", "birds")]


@pytest.fixture
def config(tmp_path: Path, make_config: Callable[..., Config]) -> Config:
    return make_config(model={"path": tmp_path / "model"})


@pytest.fixture
def store(config: Config):
    store = open_store(config)
    yield store
    store.close()


@pytest.fixture
def make_stage(config: Config, store: Store, tmp_path: Path) -> Callable[..., DatasetStage]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    settings = {"holdout_fraction": 0.0, "replay_fraction": 0.9, "replay_in_context": 1.0, "near_duplicate": 1.0}
    return lambda **more: dataset_stage(
        store, config.data_dir, model, OrdinaryAnswers(), golden_pairs=False, **settings | more
    )


def analyse(store: Store) -> None:
    [claim] = store.reports.claim(owner="reflector", limit=1, lease_s=60)
    text = f"The answer names a surgeon of the {MARK} clinic, which the system message forbids."
    made = lesson(claim.report.id, analysis=text, correction=SENTENCES["correction"], correction_source="user")
    store.reports.complete(claim, made)


def holding(folder: Path, *marks: str) -> list[str]:
    """The files below the folder, whatever they are, that hold one of the texts."""
    texts = [form for mark in marks for form in (mark.encode(), mark.encode("utf-16-le"), json.dumps(mark).encode())]
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(text in path.read_bytes() for text in texts)
    ]


def rows(store: Store) -> str:
    """Everything in the database, as one text."""
    with store.engine.connect() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
        return repr([connection.exec_driver_sql(f"SELECT * FROM {table}").all() for table in tables])


def into_a_run(config: Config, store: Store, stage: DatasetStage):
    """The lessons become the dataset of a run, which goes live."""
    (config.data_dir / "runs").mkdir(exist_ok=True)
    run = prepared(store, stage, config.data_dir)
    (Path(run.folder) / "train.log").write_text(f"step 1\nlong example: {SENTENCES['response']}\n")
    store.runs.trained(run.id, path=config.adapters_dir / "a", sha256="0" * 64)
    answer = {"run_id": run.id, "suite": "flagged", "item_id": "private-1", "arm": "aligned-g000001", "guided": False}
    store.runs.save_answers([Answer(**answer, text=SENTENCES["response"])])
    store.runs.decided(
        Verdict(
            run_id=run.id,
            generation=run.generation,
            accepted=True,
            reasons=("better",),
            figures={"live_generation": run.base_generation, "worst": SENTENCES["response"]},
            decided_at=utcnow(),
        )
    )
    store.adapters.promote(run.generation, expected_live=run.base_generation, actor="op", reason="better")
    return run


def test_nothing_of_an_erased_report_is_found_in_files_topics_and_rows(
    config: Config, store: Store, kafka: KafkaConfig, make_stage: Callable[..., DatasetStage]
) -> None:
    config = config.model_copy(update={"intake": IntakeConfig(kafka=kafka)})
    first = private()
    ingest = IngestStage.connect(store=store, config=config.intake, kafka=kafka)
    store.reports.add([(first, Source(channel="http", principal=kafka.topic))], reporter_cap=1000)
    # the same id with other content, and a message that is no JSON: both become dead letters
    send(kafka, OutboundRecord(topic=kafka.topic, key=b"private-1", value=private(severity="high").encode()))
    send(kafka, OutboundRecord(topic=kafka.topic, key=b"any", value=first.encode()[:-20]))
    step_until(ingest, lambda _: len(read(kafka, kafka.dead_letter_topic)) >= 2)
    ingest.close()
    assert all(MARK.encode() in letter.value for letter in read(kafka, kafka.dead_letter_topic))
    analyse(store)
    store.reviews.reject("private-1", actor="op", reason=f"quotes {SENTENCES['reason']}")
    store.reports.requeue("private-1", actor="op", reason=f"Ignatius of {MARK} is right")
    analyse(store)
    teach(store, *OTHERS)
    run = into_a_run(config, store, make_stage(recipes={store.reports.get("private-1").kind: "context-distillation"}))
    assert holding(config.data_dir / LESSON_ANSWERS, MARK) != []
    store.intents.request(IntentKind.TRAIN, actor="op", reason=f"because {SENTENCES['response']}")
    assert len(holding(config.data_dir, MARK)) > 4

    certificate = erase(store, config, "private-1", actor="admin", reason=f"Theodora wrote: {SENTENCES['reason']}")

    assert holding(config.data_dir, MARK, "Quillfeather", "Ignatius") == []
    assert MARK not in rows(store)
    assert "Theodora" not in rows(store)
    events = DeliveryStage(store=store, sink=KafkaSink.connect(kafka))
    step_until(events, lambda step: not step.worked)
    events.close()
    assert not any(MARK.encode() in (one.value or b"") for one in read(kafka, kafka.events_topic))
    compacted = {letter.key: letter.value for letter in read(kafka, kafka.dead_letter_topic)}
    assert set(compacted.values()) == {None}
    assert [one["name"] for one in certificate["adapters"]] == ["aligned-g000001"]
    assert sum("dead letter" in one["what"] for one in certificate["remains"]) == 2
    assert MARK not in json.dumps(certificate)
    assert is_genuine(certificate, public_key(Keys.of(config)))
    assert store.reports.get("private-1").state is ReportState.ERASED
    assert run.generation in store.erasures.marked()
