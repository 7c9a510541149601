"""What a run trained on, and what its items ask: the material of `daemon.evaluation.novelty`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from connectors.messages import Checks
from daemon.artifacts.examples import Example, ExampleKind, read_examples
from daemon.artifacts.run_folder import REPLAY_FILE, TRAIN_FILE
from daemon.evaluation.novelty import Asked, Taught
from daemon.evaluation.suites import Item, is_reviewed, prompt_of
from daemon.evaluation.votes import ItemKey
from daemon.records import Run
from daemon.store import Store


def taught_by_run(store: Store, run: Run) -> Taught:
    """Raises DatasetError if the examples of the run cannot be read."""
    trained = [one for one in read_examples(Path(run.folder) / TRAIN_FILE) if one.report_id is not None]
    ordinary = read_examples(Path(run.folder) / REPLAY_FILE)
    ids = {one.report_id for one in trained if one.report_id is not None}
    reviewed = {report_id for report_id in ids if is_reviewed(store.reports.lesson(report_id))}
    return Taught(
        corrections=[
            (prompt_of(one.messages), one.completion)
            for one in trained
            if one.kind is ExampleKind.CORRECTION and one.report_id not in reviewed
        ],
        reports=[text for one in trained for text in _texts(one)],
        ordinary=[text for one in ordinary for text in _texts(one)],
    )


def asked_by(items: Iterable[Item], *, guidance: str) -> dict[ItemKey, Asked]:
    """The prompts by item. The operator's own items may be answered in the words of their rules."""
    return {item.key: _asked(item, guidance) for item in items}


def _asked(item: Item, guidance: str) -> Asked:
    contents = [str(message["content"]) for message in item.messages]
    own = item.checks.must_contain if item.voter is None and isinstance(item.checks, Checks) else []
    return Asked(text="\n".join([guidance, *contents, *own]), question=item.question or prompt_of(item.messages))


def _texts(example: Example) -> list[str]:
    return [*(str(message["content"]) for message in example.messages), example.completion]
