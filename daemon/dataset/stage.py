"""Stage "dataset": turns lessons into the immutable training and evaluation files of a run."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from connectors.chat import EndpointError
from daemon import metrics
from daemon.artifacts.base_model import base_fingerprint
from daemon.artifacts.examples import ExampleKind
from daemon.artifacts.files import publish_files
from daemon.artifacts.run_folder import (
    HOLDOUT_FILE,
    TRAIN_FILE,
    DatasetManifest,
    account_of,
    load_manifest,
)
from daemon.chat.readings import Limit, OpensReader, Readings, served_limit
from daemon.config.dataset import DatasetConfig
from daemon.config.serving import ServingConfig
from daemon.config.training import TrainingConfig
from daemon.dataset import clusters
from daemon.dataset.ahead import IDLE, AnswersAhead
from daemon.dataset.answers import Answers, GoesOn, while_wanted
from daemon.dataset.embeddings import Matrix, vectorizer_of
from daemon.dataset.fairness import IsTrusted
from daemon.dataset.golden import GoldenPairs, golden_pairs
from daemon.dataset.permits import permits, with_account
from daemon.dataset.replay import Context, Pairs, ReplaySource
from daemon.dataset.run_files import render
from daemon.dataset.selection import Selection, select
from daemon.dataset.split import split_key
from daemon.dataset.teaching import LESSON_ANSWERS, Teaching
from daemon.dataset.usable import Usable
from daemon.errors import ChatReaderError, ConfigError, DatasetError, ErasedMeanwhileError, ServingError, StoppedError
from daemon.labels import LEFT_OUT_TEXT, LeftOut
from daemon.records import ACTOR, Run, RunState, Split, utcnow
from daemon.runtime.stage import UNTIL_WRITTEN_S, Life, Step
from daemon.serving.fleet import Fleet
from daemon.store import Store
from daemon.text.merging import merged
from daemon.text.similarity import Vectorizer
from daemon.trust.policy import Policy
from daemon.trust.standing import Standings

log = structlog.get_logger(__name__)

MIN_TRAIN_REPORTS = 2
"""A model would only memorise a single example."""
MIN_REPLAY_PAIRS = 8
SCAN_FACTOR = 20
"""Lessons read per lesson used: some are near-duplicates, above a cap or of no use."""
SCAN_PER_REPORTER = 4
"""Lessons read of one reporter per lesson that may be used of it."""


class DatasetStage:
    """Handles the run in state `preparing`."""

    name = "dataset"
    idle_s = 2.0

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        config: DatasetConfig,
        serving: ServingConfig,
        training: TrainingConfig,
        policy: Policy,
        reader: OpensReader,
        model_path: Path,
        data_dir: Path,
        check_chat: Callable[[], None],
        is_trusted: IsTrusted,
    ) -> None:
        """`check_chat` raises if the servers do not read conversations as the trainer does.

        `is_trusted`: whether the operator vouches for the reports of a principal.
        """
        self._reports = store.reports
        self._clusters = store.clusters
        self._runs = store.runs
        self._left_out = store.left_out
        self._audit = store.audit
        self._control = store.control
        self._config = config
        self._standings = Standings(policy, store.witnesses)
        self._model_path = model_path
        self._epochs = training.epochs
        self._check_chat = check_chat
        self._is_trusted = is_trusted
        self._guidance = serving.guidance
        self._readings = Readings(reader)
        self._limits = Limit(training.max_sequence_tokens, LeftOut.TOO_LONG), served_limit(serving)
        self._data_dir = data_dir
        self._vectors: dict[str, Matrix] = {}
        self._selected: tuple[int, int, Selection] | None = None
        """Run, last entry of the audit log, selection: a run selects again only after an operator's decision."""
        self._fleet, self._base_name = fleet, serving.base_name
        self._teachings: dict[int, Teaching] = {}
        """That of the active run."""
        self._replay = ReplaySource(
            fleet=fleet,
            base_name=serving.base_name,
            prompts=config.replay_prompts,
            max_tokens=config.replay_max_tokens,
            cache_dir=data_dir / "replay",
            guidance=serving.guidance,
            in_context=config.replay_in_context,
        )
        at_most = config.max_replay_pairs if config.replay_fraction else 0
        self._ahead = AnswersAhead(
            self._replay,
            fleet,
            model_path=model_path,
            check_chat=check_chat,
            run_waits=lambda: self._runs.active() is not None,
            at_most=at_most,
            seed=config.seed,
        )

    def step(self, life: Life) -> Step:
        run = self._runs.active()
        if run is None and self._config.replay_ahead:
            return self._ahead.step(life)
        if run is None or run.state is not RunState.PREPARING:
            return Step(sentence=IDLE, rest_s=UNTIL_WRITTEN_S)
        try:
            self._check_chat()
            return self._prepare(run, life)
        except (ServingError, EndpointError) as exc:
            if isinstance(exc, ServingError) or exc.transient:
                return Step(sentence=f"run {run.id} waits for a model server: {exc}")
            reason = f"the base model does not answer ordinary prompts: {exc}"
        except StoppedError as exc:
            return Step(sentence=f"run {run.id}: {exc}")
        except (DatasetError, ConfigError, ChatReaderError) as exc:
            reason = str(exc)
        except OSError as exc:
            reason = f"the dataset cannot be written: {exc}; free or repair the disk, then start a new run"
        self._runs.failed(run.id, reason=reason)
        metrics.RUNS.labels(outcome="failed").inc()
        return Step(sentence=f"run {run.id} failed: {reason}", worked=True)

    def _prepare(self, run: Run, life: Life) -> Step:
        folder = Path(run.folder)
        if folder.exists():  # published by a step that was interrupted before the hand-over
            try:
                return self._hand_over(run, _written_for(run, folder))
            except DatasetError as exc:
                self._control.require_lead()
                log.warning("dataset discarded", run=run.id, folder=str(folder), reason=str(exc))
                shutil.rmtree(folder)
        vectorizer = vectorizer_of(
            self._config,
            model_path=self._model_path,
            cache_dir=self._data_dir / "embeddings",
            life=life,
            known=self._vectors,
        )
        with self._readings.of_run(run.id, life) as session:
            training, serving = self._limits
            usable = Usable(session, training=training, serving=serving, guidance=self._guidance)
            return self._write(run, vectorizer, usable, life)

    def _write(self, run: Run, vectorizer: Vectorizer, usable: Usable, life: Life) -> Step:
        fingerprint = base_fingerprint(self._model_path)
        teaching = self._teaching(run, fingerprint)
        teaching.read_with(usable)
        selection = self._select(run, vectorizer, usable, teaching)
        if (asked := self._ask_about(run, selection, teaching, life)) is not None:
            return asked
        per_epoch = replay_size(len(selection.examples), self._config.replay_fraction)
        count = replay_in_all(per_epoch, self._epochs, at_most=self._config.max_replay_pairs)
        contexts = [
            Context.of(said.flagged, said.checks) for said in (merged(chosen.report) for chosen in selection.train)
        ]
        pairs = self._replay.pairs(fingerprint, count=count, seed=run.seed, contexts=contexts, usable=usable)
        if pairs.missing:
            # the next step goes on from the kept answers: selection and pairs are repeatable
            waiting = self._waiting(run, "ordinary prompts")
            left = self._replay.ask(fingerprint, pairs.missing, goes_on=self._goes_on(run, life, waiting))
            return Step(sentence=waiting(left), worked=True)
        self._replay.forget_unused()
        teaching.forget_unused()
        _require_replay(pairs, count)
        golden = self._golden(run, selection, vectorizer, usable)
        self._say_grades(run, selection)
        folder = Path(run.folder)
        self._control.require_lead()
        publish_files(
            folder,
            render(run, selection, pairs, fingerprint, replay_per_epoch=per_epoch, golden=golden, teaching=teaching),
        )
        vectorizer.forget_unused()
        self._selected = None
        return self._hand_over(run, load_manifest(folder))

    def _teaching(self, run: Run, fingerprint: str) -> Teaching:
        """A run keeps the recipes that it began with, and those that it chose."""
        if run.id not in self._teachings:
            by_kind = run.progress.get("recipes")
            if by_kind is None:
                by_kind = {kind.value: name for kind, name in self._config.recipes.items()}
                self._runs.progress(run.id, {"recipes": by_kind})
            folder = self._data_dir / LESSON_ANSWERS
            teaching = Teaching(
                recipe_name=run.recipe,
                by_kind=by_kind,
                answers=Answers(fleet=self._fleet, base_name=self._base_name, folder=folder, fingerprint=fingerprint),
                guidance=self._guidance,
                config=self._config,
            )
            self._teachings = {run.id: teaching}
        return self._teachings[run.id]

    @staticmethod
    def _waiting(run: Run, questions: str) -> Callable[[int], str]:
        return lambda left: f"run {run.id}: {left} {questions} wait for the base model"

    def _goes_on(self, run: Run, life: Life, waiting: Callable[[int], str]) -> GoesOn:
        """Whether the questions of a run are still wanted. Says how many are left."""

        def wanted(left: int) -> bool:
            life.say(waiting(left))
            return self._runs.get(run.id).state is RunState.PREPARING

        return while_wanted(life, wanted)

    def _ask_about(self, run: Run, selection: Selection, teaching: Teaching, life: Life) -> Step | None:
        """Ask the base model about the lessons. None: everything is known."""
        missing = teaching.missing(selection.lessons)
        if missing:
            waiting = self._waiting(run, "questions about lessons")
            left = teaching.ask(missing, goes_on=self._goes_on(run, life, waiting))
            return Step(sentence=waiting(left), worked=True)
        if not teaching.is_stale:
            return None
        teaching.is_stale = False
        self._selected = None
        self._runs.progress(run.id, {"recipes": teaching.by_kind})
        return Step(sentence=f"run {run.id}: the base model was asked about its lessons", worked=True)

    def _say_grades(self, run: Run, selection: Selection) -> None:
        """Note what supports the lessons, and in the audit log which sources the run trusts: one entry per source."""
        self._runs.progress(run.id, {"grades": selection.grades})
        for principal, count in selection.skipped.items():
            reason = f"run {run.id} uses {count} reports of it without the evidence or confirmation that others need"
            self._audit.record(actor=ACTOR, action="trusted_source", subject=principal, reason=reason)

    def _golden(self, run: Run, selection: Selection, vectorizer: Vectorizer, usable: Usable) -> GoldenPairs:
        if self._config.golden_pairs is False:
            return GoldenPairs()
        return golden_pairs(
            self._config.golden_pairs,
            count=complement_size(len(selection.examples), self._config.golden_fraction),
            seed=run.seed,
            guidance=self._guidance,
            held_out=[chosen.report.prompt_text for chosen in selection.holdout],
            vectorizer=vectorizer,
            similarity=self._config.same_kind,
            usable=usable,
        )

    def _select(self, run: Run, vectorizer: Vectorizer, usable: Usable, teaching: Teaching) -> Selection:
        decisions = self._audit.last()
        if self._selected is not None and self._selected[:2] == (run.id, decisions):
            return self._selected[2]
        candidates = self._reports.trainable(
            limit=self._config.max_reports * SCAN_FACTOR,
            per_reporter=self._config.max_per_reporter * SCAN_PER_REPORTER,
        )
        assigned = clusters.assign(
            self._clusters,
            [report for report, _ in candidates],
            vectorizer=vectorizer,
            similarity=self._config.same_kind,
            holdout_fraction=self._config.holdout_fraction,
            key=split_key(self._data_dir, self._config.split_key_env),
        )
        permitted = permits(candidates, assigned, self._standings)
        teaching.permit(permitted.vouched)
        selection = _usable_selection(
            partial(
                select,
                permitted.lessons,
                assigned,
                config=self._config,
                render=teaching.render,
                vectorizer=vectorizer,
                usable=usable,
                is_trusted=self._is_trusted,
            ),
            usable,
        )
        never_came = {
            LeftOut.NOT_TRAINABLE: self._reports.count_not_trainable(),
            LeftOut.OTHER_TENANT: self._reports.count_of_other_tenants(),
        }
        selection = with_account(selection, permitted, never_came=never_came, unvouched=teaching.unvouched)
        if len(selection.train) < MIN_TRAIN_REPORTS:
            reasons = [f"{count} {LEFT_OUT_TEXT[reason]}" for reason, count in selection.left_out.items()]
            self._keep_account(run, selection)
            raise DatasetError(
                f"too few lessons: {len(selection.train)} of {len(candidates)} can be trained on under recipe "
                f"'{run.recipe}', at least {MIN_TRAIN_REPORTS} are needed (held out: {len(selection.holdout)}; "
                f"left out: {', '.join(reasons) or 'none'}); collect more reports and start a new run"
            )
        self._selected = run.id, decisions, selection
        return selection

    def _hand_over(self, run: Run, manifest: DatasetManifest) -> Step:
        parts: dict[str, Mapping[Any, Any]] = {
            "examples": manifest.examples,
            "lessons": Counter(item.role.value for item in manifest.items),
            "left_out": manifest.left_out,
            "left_out_texts": manifest.left_out_texts,
            "flips": {kind: counted.model_dump() for kind, counted in manifest.flips.items()},
        }
        try:
            self._runs.prepared(run.id, manifest.run_items(), left_out=manifest.account())
        except ErasedMeanwhileError as exc:
            shutil.rmtree(run.folder)
            return Step(sentence=f"run {run.id}: the dataset is made again, {exc}", worked=True)
        self._runs.progress(run.id, {name: dict(counts) for name, counts in parts.items() if counts})
        metrics.RUN_STAGE_SECONDS.labels(stage=self.name).observe((utcnow() - run.created_at).total_seconds())
        for kind, count in manifest.examples.items():
            metrics.DATASET_EXAMPLES.labels(kind=kind).set(count)
        metrics.TEACHER_FLIP_RATIO.clear()
        for kind, counted in manifest.flips.items():
            metrics.TEACHER_FLIP_RATIO.labels(kind=kind).set(counted.ratio)
        for reason in LeftOut:
            metrics.DATASET_LEFT_OUT.labels(reason=reason).set(manifest.left_out.get(reason, 0))
        examples = ", ".join(f"{count} {kind}" for kind, count in manifest.examples.items())
        trained, held_out = (len(manifest.files[name].report_ids) for name in (TRAIN_FILE, HOLDOUT_FILE))
        said = f"run {run.id}: wrote {examples} examples from {trained} lessons, {held_out} held out"
        return Step(sentence=said, worked=True)

    def _keep_account(self, run: Run, selection: Selection) -> None:
        """Of a run that fails: its reports say why, too."""
        lessons = {Split.TRAIN: len(selection.train), Split.HOLDOUT: len(selection.holdout)}
        self._runs.progress(run.id, {"lessons": lessons, "left_out": dict(selection.left_out)})
        self._left_out.add(account_of(run.id, selection.unusable))


def _usable_selection(select_known: Callable[[], Selection], usable: Usable) -> Selection:
    """Select, read what was selected, and select again without the refused ones, until all can be used."""
    while True:
        selection = select_known()
        refused = usable.read_examples(example for chosen in selection.train for example in chosen.examples)
        if not usable.read_reports(chosen.report for chosen in selection.holdout) and not refused:
            return selection


def _require_replay(pairs: Pairs, count: int) -> None:
    """Raises DatasetError if the model would be trained without the ordinary pairs that it needs to forget nothing."""
    left_out = pairs.left_out.get(ExampleKind.REPLAY, {})
    if count and left_out and not pairs.replay:
        reasons = ", ".join(f"{number} {LEFT_OUT_TEXT[reason]}" for reason, number in left_out.items())
        raise DatasetError(
            f"no ordinary pair is left of {sum(left_out.values())}: {reasons}; repair how the base model is served "
            "(chat template, reasoning parser, dataset.replay_max_tokens) or give other dataset.replay_prompts, and "
            "start a new run; dataset.replay_fraction: 0 trains without them"
        )


def _written_for(run: Run, folder: Path) -> DatasetManifest:
    manifest = load_manifest(folder)
    if (manifest.run_id, manifest.run_created_at) != (run.id, run.created_at):
        raise DatasetError(f"{folder} belongs to another run of an earlier database")
    return manifest


def replay_size(training_examples: int, fraction: float) -> int:
    """Number of replay pairs so that they are `fraction` of an epoch, at least MIN_REPLAY_PAIRS; 0 if it is 0."""
    return max(MIN_REPLAY_PAIRS, complement_size(training_examples, fraction)) if fraction else 0


def replay_in_all(per_epoch: int, epochs: float, *, at_most: int) -> int:
    """Number of replay pairs so that each epoch has different ones, but at most `at_most`."""
    return min(per_epoch * math.ceil(epochs), at_most)


def complement_size(examples: int, fraction: float) -> int:
    """Number of additional examples so that they are `fraction` (at most 0.9) of all examples."""
    share = min(fraction, 0.9)
    return round(examples * share / (1 - share))
