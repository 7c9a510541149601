"""The status in words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from daemon.operations.progress import progress_text
from daemon.operations.status import next_cron_time
from daemon.operations.views import RunRow
from tests.fixtures.learned import Learned
from tests.fixtures.stores import start_run


def test_the_progress_of_a_run_is_told_in_words(learned: Learned) -> None:
    run = start_run(learned.store)
    assert run is not None

    def told(**figures: object) -> str:
        learned.store.runs.progress(run.id, figures)
        return progress_text(RunRow.of(learned.store.runs.get(run.id)))

    assert told(train_seconds=3.5, losses=[[1, 2.0]]) == ""
    assert told(examples={"analysis": 8, "replay": 2}, left_out={"near_duplicate": 1}) == (
        "examples: 8 analysis, 2 replay; left out: 1 near-duplicate of another report"
    )
    assert "; left out: 3 above max_reports;" in f"{told(left_out={'above max_reports': 3})};"  # of an earlier version
    taught = told(
        recipes={"secret-leak": "consistency"},
        flips={"secret-leak": {"lessons": 8, "flipped": 7}},
        hindsight_advantage=0.312,
    )
    assert "; recipes: consistency for secret-leak; lessons with a teacher that helps: 7 of 8 secret-leak;" in taught
    assert "; complaints take 0.31 nats per token from flagged answers" in taught
    assert "; left out of replay: 2 refused by the model server" in told(
        left_out_texts={"replay": {"server_refuses": 2}}
    )
    assert told(phase="teacher", steps=0).endswith("; training: asking the teacher")
    assert told(step=10, steps=40, loss=0.83125, tokens_per_s=61.7, eta_s=130.0).endswith(
        "; training: step 10 of 40, loss 0.831, 62 tokens/s, 2 min left"
    )
    assert told(eta_s=0.0, skipped_examples=2, failed_attempts=1).endswith(
        "62 tokens/s; 2 examples left out by the trainer; failed attempts: 1"
    )
    assert told(evaluation={"done": 3, "total": 4, "seconds": 9.0}).endswith("; measured: 3 of 4 answers")


@pytest.mark.timeout(20)  # apscheduler before 3.11.2 never returned
def test_a_cron_time_in_the_hour_of_a_dst_end_is_found() -> None:
    now = datetime(2027, 10, 30, 12, tzinfo=UTC)
    found = [next_cron_time("30 2 * * *", "Europe/Berlin", now)]
    found.append(next_cron_time("30 2 * * *", "Europe/Berlin", datetime(2027, 10, 31, 12, tzinfo=UTC)))
    assert [time and time.astimezone(UTC) for time in found] == [
        datetime(2027, 10, 31, 0, 30, tzinfo=UTC),
        datetime(2027, 11, 1, 1, 30, tzinfo=UTC),
    ]
