"""Stage "finetune": starts the trainer of the run's adapter, where `training.runner` says, and supervises it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from daemon import metrics
from daemon.artifacts.adapter import verify
from daemon.artifacts.base_model import base_fingerprint
from daemon.artifacts.files import sha256_file, write_atomically
from daemon.artifacts.run_folder import JOB_FILE, MANIFEST_FILE
from daemon.config.chat import ChatConfig
from daemon.config.serving import ModelConfig
from daemon.config.training import TrainingConfig
from daemon.errors import (
    AdapterInvalidError,
    ConfigError,
    IllegalTransitionError,
    RunnerUnavailableError,
    ServingError,
    StoreUnavailableError,
    TrainingError,
)
from daemon.records import Run, RunState
from daemon.runtime.stage import UNTIL_WRITTEN_S, Life, Step
from daemon.store import Runs, Store
from daemon.training.job import (
    CHECKPOINTS,
    TEACHER,
    LossCurve,
    Phase,
    TrainingJob,
    TrainingProgress,
)
from daemon.training.process import log_tail
from daemon.training.runner import Attempt, make_runner

log = structlog.get_logger(__name__)

_PAST_RUNS = 20
"""Runs that may have ended while no daemon looked."""
_SHOWN = {"phase", "step", "steps", "loss", "tokens_per_s", "eta_s", "kl_to_base", "entropy", "hindsight_advantage"}
"""Figures of the child that the run keeps."""


class _ProgressExporter:
    """Copies the progress of one attempt to the metrics and to the run. A cluster may replace the trainer meanwhile."""

    def __init__(self, runs: Runs, run: Run) -> None:
        self._runs = runs
        self._run = run
        self._started = time.monotonic()
        self._seen = TrainingProgress()
        self._losses = LossCurve(run.progress.get("losses", ()))

    def update(self, progress: TrainingProgress) -> None:
        if progress == self._seen:
            return
        is_same = progress.first_step == self._seen.first_step and progress.tokens >= self._seen.tokens
        before, self._seen = (self._seen if is_same else TrainingProgress()), progress
        metrics.TRAINING_STEPS.inc(progress.step - max(before.step, progress.first_step))
        metrics.TRAINING_TOKENS.inc(progress.tokens - before.tokens)
        metrics.TRAINING_PROGRESS.set(progress.step / progress.steps if progress.steps else 0.0)
        if progress.loss is not None:
            metrics.TRAINING_LOSS.set(progress.loss)
        if progress.tokens_per_s is not None:
            metrics.TRAINING_SPEED.set(progress.tokens_per_s)
        self._losses.add(progress)
        if progress.kl_to_base is not None:
            metrics.TRAINING_KL.set(progress.kl_to_base)
        if progress.entropy is not None:
            metrics.TRAINING_ENTROPY.set(progress.entropy)
        if progress.hindsight_advantage is not None:
            metrics.HINDSIGHT_ADVANTAGE.set(progress.hindsight_advantage)
        figures = progress.model_dump(mode="json", include=_SHOWN)
        seconds = self._run.progress.get("train_seconds", 0.0) + time.monotonic() - self._started
        self._runs.progress(
            self._run.id,
            {
                **figures,
                "skipped_examples": progress.skipped,
                "train_seconds": round(seconds, 3),
                "losses": self._losses.points,
            },
        )


class FinetuneStage:
    """Handles the run in state `training`."""

    name = "finetune"
    idle_s = 2.0

    def __init__(
        self,
        *,
        store: Store,
        config: TrainingConfig,
        chat: ChatConfig,
        model: ModelConfig,
        adapters_dir: Path,
        check_chat: Callable[[], None],
    ) -> None:
        """`check_chat` raises if the servers do not read conversations as the trainer does."""
        self._runs = store.runs
        self._adapters = store.adapters
        self._control = store.control
        self._config = config
        self._runner = make_runner(config)
        self._chat = chat
        self._model = model
        self._adapters_dir = adapters_dir
        self._check_chat = check_chat
        self._knows_the_past = False

    def step(self, life: Life) -> Step:
        self._forget_ended()
        run = self._runs.active()
        if run is None or run.state is not RunState.TRAINING:
            return Step(sentence="no run to train", rest_s=UNTIL_WRITTEN_S)
        try:
            return self._advance(run, life)
        except ServingError as exc:
            return Step(sentence=f"run {run.id} waits for a model server: {exc}")
        except RunnerUnavailableError as exc:
            return Step(sentence=f"run {run.id} waits: {exc}")
        except IllegalTransitionError as exc:
            return Step(sentence=f"run {run.id} was ended meanwhile: {exc}", worked=True)
        except (TrainingError, AdapterInvalidError, ConfigError) as exc:
            reason = str(exc)
        except OSError as exc:
            reason = f"training cannot start or write: {exc}; repair that, then start a new run"
        self._runs.failed(run.id, reason=reason)
        shutil.rmtree(Path(run.folder) / TEACHER, ignore_errors=True)  # large, and made of users' texts
        metrics.RUNS.labels(outcome="failed").inc()
        return Step(sentence=f"run {run.id} failed: {reason}", worked=True)

    def _forget_ended(self) -> None:
        """Once: stop what an earlier daemon left training for runs that have ended since."""
        if self._knows_the_past:
            return
        try:
            for run in self._runs.find(limit=_PAST_RUNS):
                if run.state is not RunState.TRAINING and self._runner.forget(Path(run.folder)):
                    log.info("training stopped", run=run.id, reason="the run has ended")
                    self._discard(Path(run.folder))
        except (RunnerUnavailableError, TrainingError) as exc:
            log.warning("a trainer of a run that has ended may still work", reason=str(exc))
        else:
            self._knows_the_past = True

    @staticmethod
    def _discard(run_folder: Path) -> None:
        """Remove what was made from users' texts, of a training that will not go on."""
        for name in (CHECKPOINTS, TEACHER):
            shutil.rmtree(run_folder / name, ignore_errors=True)

    def _advance(self, run: Run, life: Life) -> Step:
        folder = Path(run.folder)
        if not (folder / MANIFEST_FILE).exists():
            raise TrainingError(f"the dataset in {folder} is gone; start a new run")
        if self._runner.busy(folder):
            return Step(sentence=f"run {run.id}: a trainer started by an earlier daemon is still running; waiting")
        job = self._job(run)
        if job.chat != self._chat.absolute():
            raise TrainingError("the section `chat` was changed after the run had begun; start a new run")
        if job.adapter_folder.exists():
            return self._hand_over(run, job)
        self._check_chat()
        return self._attempt(run, job, life)

    def _job(self, run: Run) -> TrainingJob:
        """The job of the run, written by the first attempt. Later configuration changes only affect the next run."""
        path = Path(run.folder) / JOB_FILE
        if not path.exists():
            job = TrainingJob(
                run_id=run.id,
                generation=run.generation,
                name=self._adapters.get(run.generation).name,
                recipe=run.recipe,
                seed=run.seed,
                run_folder=Path(run.folder).absolute(),
                adapters_dir=self._adapters_dir.absolute(),
                model_path=self._model.path.absolute(),
                base_fingerprint=base_fingerprint(self._model.path),
                training=self._config,
                chat=self._chat.absolute(),
                trust_remote_code=self._model.trust_remote_code,
            )
            write_atomically(path, job.model_dump_json(indent=2).encode())
        return TrainingJob.load(path)

    def _hand_over(self, run: Run, job: TrainingJob) -> Step:
        manifest = verify(
            job.adapter_folder,
            name=job.name,
            base_fingerprint=job.base_fingerprint,
            max_rank=job.training.rank,
            target_modules=job.target_modules,
        )
        if manifest.lineage.dataset_sha256 != sha256_file(job.run_folder / MANIFEST_FILE):
            raise TrainingError(
                f"{job.adapter_folder} was trained on another dataset (by an earlier database?); "
                "move it away and start a new run: an adapter's name is never used twice"
            )
        trained = manifest.lineage.report_ids
        untrained = self._runs.trained(
            run.id,
            path=job.adapter_folder,
            sha256=manifest.weights_sha256,
            report_ids=trained,
            left_out=manifest.lineage.left_out,
        )
        if untrained:
            self._runs.progress(run.id, {"left_out": {**run.progress.get("left_out", {}), **untrained}})
        metrics.RUN_STAGE_SECONDS.labels(stage=self.name).observe(run.progress.get("train_seconds", 0.0))
        metrics.TRAINING_PROGRESS.set(1.0)
        return Step(
            sentence=f"run {run.id}: trained {job.name} from {len(trained)} lessons in {manifest.lineage.steps} steps",
            worked=True,
        )

    def _attempt(self, run: Run, job: TrainingJob, life: Life) -> Step:
        """Follow one trainer from start to end. A refusal is final; any other early end is a failure and is retried."""
        job.adapters_dir.mkdir(parents=True, exist_ok=True)  # a bad path must fail now, not after hours of training
        attempt = self._runner.start(job)
        log.info("training starts", run=run.id, adapter=job.name, trainer=str(attempt))
        exporter = _ProgressExporter(self._runs, run)
        try:
            in_time = self._supervise(job, attempt, exporter, life)
        finally:
            attempt.stop()
            metrics.TRAINING_MEMORY.set(0)
        if self._runs.get(run.id).state is not RunState.TRAINING:
            self._control.require_lead()  # or a new leader has taken the adapter over, and it must stay
            self._discard(job.run_folder)
            shutil.rmtree(job.adapter_folder, ignore_errors=True)
            return Step(sentence=f"run {run.id} was ended during the training", worked=True)
        progress = TrainingProgress.load(job.run_folder)
        exporter.update(progress)
        if job.adapter_folder.exists():  # even if the child was killed after the rename
            return Step(sentence=f"run {run.id}: {job.name} is trained", worked=True)
        if progress.phase is Phase.REFUSED:
            raise TrainingError(f"the trainer refused: {progress.reason}")
        if in_time and (life.stopping or progress.phase is Phase.STOPPED):
            return Step(
                sentence=f"run {run.id}: training stopped at step {progress.step}; it will resume from a checkpoint"
            )
        how = attempt.ended() if in_time else f"took over {self._config.timeout_s:g} s"
        return self._retry(run, job, f"the trainer {how} at step {progress.step} of {progress.steps}")

    def _supervise(self, job: TrainingJob, attempt: Attempt, exporter: _ProgressExporter, life: Life) -> bool:
        """Export the progress until the trainer ends or the daemon stops. False if `timeout_s` ran out first."""
        deadline = time.monotonic() + self._config.timeout_s
        while attempt.ended() is None and not life.wait(self._runner.poll_s):
            progress = TrainingProgress.load(job.run_folder)
            life.say(f"run {job.run_id}: {job.name}: {attempt.waits or progress}")
            metrics.TRAINING_MEMORY.set(attempt.resident_bytes())
            try:
                exporter.update(progress)
                if self._runs.get(job.run_id).state is not RunState.TRAINING:
                    return True  # ended by an erasure
            except StoreUnavailableError as exc:
                log.warning("progress not stored", run=job.run_id, reason=str(exc))
            if time.monotonic() > deadline:
                return False
        return True

    def _retry(self, run: Run, job: TrainingJob, what: str) -> Step:
        attempt = int(run.progress.get("failed_attempts", 0)) + 1
        tail = log_tail(job.run_folder)
        if attempt >= self._config.max_attempts:
            raise TrainingError(
                f"{what}, in attempt {attempt} of {self._config.max_attempts}; the end of its log:\n{tail}"
            )
        self._runs.progress(run.id, {"failed_attempts": attempt})
        log.warning("training attempt failed", run=run.id, what=what, folder=str(job.run_folder))
        return Step(sentence=f"run {run.id}: {what}; attempt {attempt + 1} resumes from the last checkpoint")
