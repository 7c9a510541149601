"""Operators' commands, shared by the command line, the API and the console. Each checks its input first."""

from __future__ import annotations

from connectors.messages import FlaggedResponse
from daemon import metrics
from daemon.config import Config
from daemon.errors import IllegalTransitionError, NotFoundError
from daemon.operations.stages import PAUSABLE
from daemon.privacy.keys import Keys
from daemon.privacy.sealed import unseal
from daemon.records import AdapterState, CorrectionSource, Intent, IntentKind
from daemon.store import Store
from daemon.store.control import ALL_STAGES
from daemon.text.content import MAX_CHARACTERS, Finding, content_fault, correction_fault
from daemon.text.merging import merged
from daemon.transitions import ADAPTER_TRANSITIONS


def request_training(store: Store, *, actor: str, reason: str) -> Intent:
    return store.intents.request(IntentKind.TRAIN, actor=actor, reason=reason)


def request_induction(store: Store, *, actor: str, reason: str) -> Intent:
    """Request an induction run. The daemon refuses it if induction is disabled."""
    return store.intents.request(IntentKind.INDUCE, actor=actor, reason=reason)


def request_promotion(store: Store, generation: int, *, actor: str, reason: str) -> Intent:
    """Request the promotion of a candidate.

    Raises:
        NotFoundError: The generation is unknown.
        IllegalTransitionError: A generation in this state cannot go live."""
    _may_go_live(store, generation)
    return store.intents.request(IntentKind.PROMOTE, actor=actor, reason=reason, target_generation=generation)


def request_rollback(store: Store, generation: int | None, *, actor: str, reason: str) -> Intent:
    """Request a return to `generation` (None: the previous live generation). Raises like `request_promotion`."""
    if generation is not None:
        _may_go_live(store, generation)
    elif store.adapters.previous() is None:
        raise IllegalTransitionError("nothing to roll back to: there is no previous live generation")
    return store.intents.request(IntentKind.ROLLBACK, actor=actor, reason=reason, target_generation=generation)


def approve(store: Store, generation: int, *, actor: str, reason: str) -> Intent:
    """Approve a rolled-back generation again, and request that it goes live. Both are in the audit.

    Raises:
        NotFoundError: The generation is unknown.
        IllegalTransitionError: It was not rolled back, its files are gone, it was trained on erased reports, or the
            reason is empty.
    """
    if not reason.strip():
        raise IllegalTransitionError("give the reason why it may go live again: it stands in the audit")
    store.adapters.approve(generation, actor=actor, reason=reason)
    return request_rollback(store, generation, actor=actor, reason=f"approved again: {reason}")


def reject_candidate(store: Store, generation: int, *, actor: str, reason: str) -> None:
    """Reject a candidate that the gate accepted.

    Raises:
        NotFoundError: The generation is unknown.
        IllegalTransitionError: It is not waiting for promotion.
    """
    run_id = store.adapters.get(generation).run_id
    if run_id is None:
        raise IllegalTransitionError("generation 0 is the base model: it cannot be rejected")
    store.runs.rejected(run_id, actor=actor, reason=reason)


def correct_analysis(
    store: Store,
    report_id: str,
    *,
    analysis: str,
    correction: str | None,
    actor: str,
    reason: str,
    max_characters: int = MAX_CHARACTERS,
) -> None:
    """Replace the analysis and the corrected answer of a report. The next run trains on the new text.

    An empty correction means: no good answer is known.

    Raises:
        NotFoundError: The report is unknown.
        IllegalTransitionError: The report has no analysis, the new analysis is empty, or a text fails the checks of
            `daemon.text.content`, which hold for everybody. Training on it would teach a mistake.
    """
    analysis, correction = _plain(analysis), _plain(correction or "") or None
    if not analysis:
        raise IllegalTransitionError("the analysis is empty; write one, or reject the report")
    report = store.reports.get(report_id)
    _take("analysis", content_fault(analysis, report.flagged))
    if correction is not None:
        rules = merged(report).rules
        finding = correction_fault(correction, report.flagged, rules=rules, max_characters=max_characters)
        _take("corrected answer", finding)
    store.reviews.correct(report_id, analysis=analysis, correction=correction, actor=actor, reason=reason)


def read_original(store: Store, config: Config, report_id: str, *, actor: str, reason: str) -> FlaggedResponse:
    """The report as it was sent, before redaction. The reading is in the audit log.

    Raises:
        NotFoundError: No original is kept.
        ConfigError: The key is another one than when it was kept.
    """
    sealed = store.originals.read(report_id, actor=actor, reason=reason)
    sent_id = store.reports.get(report_id).flagged.id
    return FlaggedResponse.model_validate_json(unseal(sealed, sent_id, Keys.of(config)))


def pause(store: Store, stage: str, *, actor: str, reason: str) -> None:
    """Pause a stage, or `all`. Raises NotFoundError for an unknown stage."""
    store.control.pause(_known(stage), actor=actor, reason=reason)


def resume(store: Store, stage: str, *, actor: str, reason: str) -> bool:
    """Resume a stage, or `all`; False if it was not paused. Raises NotFoundError for an unknown stage."""
    return store.control.resume(_known(stage), actor=actor, reason=reason)


def _take(name: str, finding: Finding | None) -> None:
    if finding is not None:
        metrics.SET_ASIDE.labels(source=CorrectionSource.REVIEWER, fault=finding.fault).inc()
        raise IllegalTransitionError(f"the {name} is not taken: {finding.sentence}")


def _plain(text: str) -> str:
    """Text of a form or an editor, with Unix line ends and without outer blanks."""
    return text.replace("\r\n", "\n").strip()


def _may_go_live(store: Store, generation: int) -> None:
    state = store.adapters.get(generation).state
    if AdapterState.LIVE not in ADAPTER_TRANSITIONS[state]:
        raise IllegalTransitionError(f"generation {generation} is {state}: it cannot become live")


def _known(stage: str) -> str:
    if stage not in {ALL_STAGES, *PAUSABLE}:
        raise NotFoundError(f"no stage {stage!r}; choose {ALL_STAGES} or one of {', '.join(PAUSABLE)}")
    return stage
