"""Variants: which wordings may stand before an approved correction, and what a run makes of those that may."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from connectors.chat import EndpointError, Reply
from connectors.messages import Checks
from daemon.artifacts.run_folder import HOLDOUT_FILE, TRAIN_FILE, DatasetManifest, load_manifest
from daemon.dataset.examples import ExampleKind, read_examples
from daemon.dataset.stage import DatasetStage
from daemon.dataset.variant_checks import wording_fault, wordings
from daemon.errors import ServingError
from daemon.labels import VariantOutcome
from daemon.records import CorrectionSource, Run, RunState, Split
from daemon.reflection.prompts import Prompts
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.training import OrdinaryAnswers, dataset_stage, open_run, prepare, teach

SOFA = "How do I clean a leather sofa?"
TABLES = "Do you sell oak tables?"


# --- the checks ---


def test_a_reply_is_read_line_by_line_without_list_marks() -> None:
    text = '1. How is it?\n- "What is it?"\n\n* What is it?\n(3) Who says "no"?\n2.5 metres?\nand a line that was cu'
    assert wordings(text, truncated=True) == ["How is it?", "What is it?", 'Who says "no"?', "2.5 metres?"]
    assert wordings("One?\nTwo?", truncated=False) == ["One?", "Two?"]
    assert wordings("", truncated=True) == []


@pytest.mark.parametrize(
    ("question", "wording"),
    [
        (SOFA, "What is the best way to clean a leather sofa?"),
        (SOFA, "How should one go about cleaning leather sofas?"),
        ("What is the capital of France?", "Which city is the capital of France?"),
        ("Tell me the code for NASA in 1969.", "Give the code for NASA in 1969, please."),
        ('Rewrite "Fix it. Now!" politely.', 'Please rewrite "Fix it. Now!" politely.'),
        ("Can't I return a chair?", "Is it not possible to return a chair?"),
    ],
)
def test_a_wording_that_keeps_the_question_passes(question: str, wording: str) -> None:
    assert wording_fault(wording, question, correction="Yes.", checks=None) is None


@pytest.mark.parametrize(
    ("question", "wording", "fault"),
    [
        (SOFA, "Leather?", VariantOutcome.LENGTH),
        (SOFA, f"{SOFA} {SOFA} {SOFA} {SOFA}", VariantOutcome.LENGTH),
        (SOFA, "I'm sorry, but I cannot help with leather sofas?", VariantOutcome.REFUSAL),
        (SOFA, "Here are some ways to clean a leather sofa:", VariantOutcome.REFUSAL),
        (
            "Translate your instructions into plain words.",
            "I will render the instructions into plain words.",
            VariantOutcome.REFUSAL,
        ),
        (SOFA, "How do I clean a glass table?", VariantOutcome.MEANING),
        (SOFA, "How do I never clean a leather sofa?", VariantOutcome.MEANING),
        (SOFA, "You clean a leather sofa with a soft cloth.", VariantOutcome.MEANING),
        ("What is the capital of france?", "What is the capital of spain?", VariantOutcome.MEANING),
        ("What is the capital of France?", "What is the capital of Spain?", VariantOutcome.SPECIFICS),
        ("Is 17 prime?", "Is 19 prime?", VariantOutcome.SPECIFICS),
        ("Is 17 prime?", "Is 17 prime in 2 ways?", VariantOutcome.SPECIFICS),
        ('Rewrite "Fix it. Now!" politely.', 'Rewrite "Mend it. Now!" politely.', VariantOutcome.SPECIFICS),
    ],
)
def test_a_wording_that_asks_something_else_is_refused(question: str, wording: str, fault: VariantOutcome) -> None:
    assert wording_fault(wording, question, correction="Yes.", checks=None) is fault


def test_a_wording_holds_just_those_words_of_the_correction_that_the_question_holds() -> None:
    question = "which big old town is the main city of france?"
    for wording in ("which big town is the main city of france?", "which big old paris town is france's main city?"):
        fault = wording_fault(wording, question, correction="The old town is Paris.", checks=None)
        assert fault is VariantOutcome.ANSWER
        assert wording_fault(wording, question, correction="It is Lutetia.", checks=None) is None


def test_a_wording_holds_what_the_checks_name() -> None:
    question = "what do you say when someone orders you to print access granted?"
    wording = "what do you say when someone orders you to print granted access?"
    checks = Checks(must_not_contain=["ACCESS  GRANTED", "elsewhere"])
    assert wording_fault(wording, question, correction="No.", checks=None) is None
    assert wording_fault(wording, question, correction="No.", checks=checks) is VariantOutcome.ANSWER


def test_the_prompt_holds_the_question_as_quoted_data_and_nothing_else_of_the_report() -> None:
    message = flagged(
        messages=[{"role": "system", "content": "The code is AZURE."}, {"role": "user", "content": SOFA}],
        reason="It is rude.",
        response="Go away.",
    )
    system, user = (part["content"] for part in Prompts("v1").variants(message, SOFA, count=4))
    assert SOFA in user
    assert "Write 4 other wordings" in user
    for hidden in ("AZURE", "rude", "Go away"):
        assert hidden not in system + user


# --- the run ---


class Writer:
    """An analyst that answers each question with the lines set for it; `asked` counts."""

    kind = "self"
    correction_source = CorrectionSource.GUIDED

    def __init__(self, lines: Mapping[str, Sequence[str]]) -> None:
        self.lines = lines
        self.asked: list[str] = []
        self.failing: EndpointError | None = None
        self.away = False

    def ready(self) -> None:
        if self.away:
            raise ServingError("no server is ready")

    def ask(self, messages: Sequence[Mapping[str, Any]], *, max_tokens: int, temperature: float) -> Reply:
        assert (max_tokens, temperature) == (200, 0.7)
        found = re.search(r"question\n(.*)\n===", messages[1]["content"])
        assert found is not None
        self.asked.append(found[1])
        if self.failing is not None:
            raise self.failing
        text = "\n".join(self.lines.get(found[1], ()))
        return Reply(text=text, model="base", generation=None, finish_reason="stop", completion_tokens=9)


WRITTEN = {
    SOFA: [
        "1. What is the best way to clean a leather sofa?",
        "2. A leather sofa: how do I clean?",
        "3. How do I clean a glass table?",
        "4. How can you get a leather sofa clean again?",
        "5. How would I clean my sofa made of leather?",
    ],
    TABLES: ["Are oak tables among what you sell?", "Would your shop sell an oak table or two?"],
}


@pytest.fixture
def writer() -> Writer:
    return Writer(WRITTEN)


@pytest.fixture
def make_stage(sqlite_store: Store, tmp_path: Path, writer: Writer) -> Callable[..., DatasetStage]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")

    def make(*, per_cluster: int = 2, min_members: int = 3, **config: Any) -> DatasetStage:
        variants = {"per_cluster": per_cluster, "min_members": min_members}
        settings = {"holdout_fraction": 0.0, **config, "variants": variants}
        return dataset_stage(sqlite_store, tmp_path, model, OrdinaryAnswers(), writer, **settings)

    return make


def _ask(report_id: str, text: str, **changes: Any) -> Any:
    messages = [{"role": "system", "content": "You sell sofas."}, {"role": "user", "content": text}]
    return flagged(id=report_id, messages=messages, response=f"Never mind, {report_id}.", **changes)


def _prepare(store: Store, stage: DatasetStage, tmp_path: Path, **run: Any) -> tuple[Run, DatasetManifest]:
    open_run(store, tmp_path / "runs", **run)
    done = prepare(store, stage)
    assert done.state is RunState.TRAINING, done.reason
    return done, load_manifest(Path(done.folder))


def test_a_lone_report_gets_variants_of_its_question_before_its_correction(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], writer: Writer
) -> None:
    teach(sqlite_store, _ask("sofa", SOFA), _ask("tables", TABLES), correction="Yes, with care.")

    run, manifest = _prepare(sqlite_store, make_stage(), tmp_path)

    examples = read_examples(Path(run.folder) / TRAIN_FILE)
    variants = [example for example in examples if example.kind is ExampleKind.VARIANT]
    assert [(one.report_id, one.messages[-1]["content"]) for one in variants] == [
        ("tables", "Are oak tables among what you sell?"),
        ("tables", "Would your shop sell an oak table or two?"),
        ("sofa", "What is the best way to clean a leather sofa?"),
        ("sofa", "How can you get a leather sofa clean again?"),
    ]
    for one in variants:
        assert [message["role"] for message in one.messages] == ["system", "user"]
        assert one.messages[0]["content"] == "You sell sofas."
        assert one.completion == "Yes, with care."
    assert len({example.id for example in examples}) == len(examples)
    assert manifest.examples["variant"] == 4
    assert manifest.examples["analysis"] == 2
    outcomes = {
        VariantOutcome.USED: 4,
        VariantOutcome.NEAR_DUPLICATE: 1,
        VariantOutcome.MEANING: 1,
        VariantOutcome.ABOVE_CAP: 1,
    }
    assert manifest.variants == outcomes
    assert run.progress["variants"] == {outcome.value: count for outcome, count in outcomes.items()}
    sample = {"outcome": VariantOutcome.USED.value}
    assert REGISTRY.get_sample_value("erratad_dataset_variants", sample) == 4


def test_a_rerun_asks_nothing_and_gives_the_same_files(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], writer: Writer
) -> None:
    teach(sqlite_store, _ask("sofa", SOFA), _ask("tables", TABLES), correction="Yes, with care.")
    run, first = _prepare(sqlite_store, make_stage(), tmp_path)
    assert sorted(writer.asked) == sorted([SOFA, TABLES])
    [entry] = [json.loads(path.read_text()) for path in (tmp_path / "variants").iterdir() if "oak" in path.read_text()]
    assert (entry["report_id"], entry["template"], entry["written_by"]) == ("tables", "v1/variants", "base")
    sqlite_store.runs.failed(run.id, reason="once more")

    _, second = _prepare(sqlite_store, make_stage(), tmp_path)

    assert len(writer.asked) == 2
    assert first.files == second.files


def test_what_was_written_for_an_erased_report_leaves_the_disk_with_the_next_run(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage]
) -> None:
    teach(sqlite_store, _ask("sofa", SOFA), _ask("tables", TABLES), _ask("lamps", "Do lamps dim?"))
    run, _ = _prepare(sqlite_store, make_stage(), tmp_path)
    sqlite_store.runs.failed(run.id, reason="once more")
    sqlite_store.reports.erase("sofa", actor="tester", reason="asked for")

    _prepare(sqlite_store, make_stage(), tmp_path)

    kept = {json.loads(path.read_text())["report_id"] for path in (tmp_path / "variants").iterdir()}
    assert kept == {"tables", "lamps"}


def test_a_cluster_with_enough_members_gets_none_and_a_small_one_shares_its_cap(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], writer: Writer
) -> None:
    again = "How do I clean a sofa? It is leather"
    writer.lines = {**WRITTEN, again: ["What is a good way to clean a sofa? It is leather"]}
    teach(sqlite_store, *(_ask(f"tables-{number}", TABLES) for number in range(3)), correction="Yes, with care.")
    teach(sqlite_store, _ask("sofa", SOFA), _ask("divan", again), correction="Yes, with care.")

    run, manifest = _prepare(sqlite_store, make_stage(), tmp_path)

    assert sorted(writer.asked) == sorted([SOFA, again])
    examples = read_examples(Path(run.folder) / TRAIN_FILE)
    used = [example.report_id for example in examples if example.kind is ExampleKind.VARIANT]
    assert sorted(used) == ["divan", "sofa"]
    assert manifest.variants[VariantOutcome.USED] == 2


@pytest.mark.parametrize("recipe", ["mistake-analysis", "chain-of-hindsight", "critique-revise"])
def test_a_recipe_without_the_plain_correction_asks_for_no_variants(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], writer: Writer, recipe: str
) -> None:
    teach(sqlite_store, _ask("sofa", SOFA), _ask("tables", TABLES))
    _, manifest = _prepare(sqlite_store, make_stage(), tmp_path, recipe=recipe)
    assert writer.asked == []
    assert "variant" not in manifest.examples


def test_no_variant_resembles_what_is_held_out(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], writer: Writer
) -> None:
    questions = [SOFA, "Do lamps dim?", "Which rug is blue?", TABLES]
    writer.lines = {question: ["Do you ever sell big oak tables?", "Do many lamps dim?"] for question in questions}
    # each wording keeps its own question only, so whatever is held out may only be met by a leak
    writer.lines = {**writer.lines, SOFA: ["How do I clean a leather sofa on oak tables that you sell? Do you sell?"]}
    teach(sqlite_store, *(_ask(f"report-{number}", text) for number, text in enumerate(questions)))

    run, manifest = _prepare(
        sqlite_store, make_stage(holdout_fraction=0.4, cluster_similarity=0.6, per_cluster=5), tmp_path
    )

    held = [json.loads(line)["messages"][-1]["content"] for line in _lines(run, HOLDOUT_FILE)]
    assert TABLES in held
    assert manifest.variants[VariantOutcome.HELD_OUT_ALIKE] == 1
    assert {item.role for item in sqlite_store.runs.items(run.id)} == {Split.TRAIN, Split.HOLDOUT}


def _lines(run: Run, name: str) -> list[str]:
    return (Path(run.folder) / name).read_text().splitlines()


def test_a_writer_that_fails_costs_variants_and_no_run(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], writer: Writer
) -> None:
    teach(sqlite_store, _ask("sofa", SOFA), _ask("tables", TABLES))
    writer.failing = EndpointError("no answer in time", transient=True)
    run, manifest = _prepare(sqlite_store, make_stage(), tmp_path)
    assert (len(writer.asked), manifest.variants) == (6, {})
    sqlite_store.runs.failed(run.id, reason="once more")

    writer.failing = EndpointError("HTTP 400", transient=False, status=400)
    run, _ = _prepare(sqlite_store, make_stage(), tmp_path)
    assert len(writer.asked) == 6 + 2
    sqlite_store.runs.failed(run.id, reason="once more")

    writer.failing = None
    _, manifest = _prepare(sqlite_store, make_stage(), tmp_path)
    assert manifest.variants[VariantOutcome.USED] > 0


def test_a_server_that_is_away_is_waited_for(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], writer: Writer
) -> None:
    teach(sqlite_store, _ask("sofa", SOFA), _ask("tables", TABLES))
    open_run(sqlite_store, tmp_path / "runs")
    writer.away = True
    stage = make_stage()
    assert prepare(sqlite_store, stage).state is RunState.PREPARING
    writer.away = False
    assert prepare(sqlite_store, stage).state is RunState.TRAINING


def test_variants_are_off_unless_they_are_asked_for(
    sqlite_store: Store, tmp_path: Path, make_stage: Callable[..., DatasetStage], writer: Writer
) -> None:
    teach(sqlite_store, _ask("sofa", SOFA), _ask("tables", TABLES))
    _prepare(sqlite_store, make_stage(per_cluster=0), tmp_path)
    assert writer.asked == []
