"""`/api`: status, listings, reviews and commands for operators."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from connectors.messages import FlaggedResponse, Identifier, Text
from daemon.config import Config
from daemon.config.web import Role
from daemon.errors import NotFoundError
from daemon.labels import SignalState
from daemon.operations import commands, erasure
from daemon.operations.export import Format
from daemon.operations.reviews import ReviewQueueView, review_queue
from daemon.operations.status import StatusView, status
from daemon.operations.views import (
    GenerationView,
    ReportRow,
    ReportView,
    RunRow,
    generation_view,
    report_view,
    run_view,
)
from daemon.privacy.certificate import public_key
from daemon.privacy.keys import Keys
from daemon.records import MAX_NUMBER, Adapter, AdapterState, AuditEntry, Erasure, Intent, Lesson
from daemon.report_filter import ReportFilter
from daemon.store import Store
from daemon.store.control import Pause
from daemon.web.access import Access
from daemon.web.dependencies import require_actor, require_caller
from daemon.web.reports import EXPORTED, export_answer, report_filter

Limit = Annotated[int, Query(ge=1, le=1000)]
ManyRows = Annotated[int, Query(ge=1, le=100_000)]
Offset = Annotated[int, Query(ge=0, le=10_000_000)]
Number = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
PathNumber = Annotated[int, Path(ge=0, le=MAX_NUMBER)]
Reason = Annotated[Text, Field(min_length=1, max_length=1000)]


class Ask(BaseModel):
    """The body of a command. `reason` is written to the audit log."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    reason: Reason = "no reason given"


class Generation(Ask):
    generation: Number


class Approval(BaseModel):
    """A reason is required: the generation was rolled back for one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    generation: Number
    reason: Reason


class Rollback(Ask):
    generation: Number | None = None
    """None: the previous live generation."""


class StageAsk(Ask):
    stage: str = "all"


class ErasedFeedback(BaseModel):
    """Erased feedback that was no report."""

    id: str
    state: Literal[SignalState.ERASED] = SignalState.ERASED
    certificate: dict[str, Any]
    """It is not kept: this answer alone has it."""


class Resumed(BaseModel):
    lifted: bool
    """False if nothing was paused."""


class OneReport(Ask):
    report_id: Identifier


class CertificateKey(BaseModel):
    public_key: str
    """The Ed25519 key of this installation, in hexadecimal digits. It checks the certificates of erasures."""


class Correction(OneReport):
    analysis: Annotated[Text, Field(min_length=1, max_length=20_000)]
    correction: Annotated[Text, Field(min_length=1, max_length=100_000)] | None = None
    """None: no good answer is known."""


def operators_router(store: Store, config: Config, access: Access) -> APIRouter:
    router = APIRouter(prefix="/api")
    for listings in (_status_and_reports(store, config), _generations(store)):
        router.include_router(listings, dependencies=[Depends(require_caller(access, Role.REVIEWER))])
    router.include_router(_audit(store), dependencies=[Depends(require_caller(access, Role.OPERATOR))])
    router.include_router(_reviews(store, config, access))
    router.include_router(_certificates(store, config), dependencies=[Depends(require_caller(access, Role.OPERATOR))])
    router.include_router(_commands(store, access))
    return router


def _status_and_reports(store: Store, config: Config) -> APIRouter:
    router = APIRouter()

    @router.get("/status", tags=["look"])
    def get_status() -> StatusView:
        return status(store, config)

    @router.get("/reports", tags=["look"])
    def reports(
        answer: Response,
        wanted: Annotated[ReportFilter, Depends(report_filter)],
        limit: Limit = 50,
        offset: Offset = 0,
    ) -> list[ReportRow]:
        """Newest first, unless `sort` says otherwise. The header X-Total-Count is the number of all that match,
        at most 10,000 under other filters than `state`."""
        answer.headers["X-Total-Count"] = str(store.reports.count(wanted))
        return [ReportRow.of(report) for report in store.reports.find(wanted, limit=limit, offset=offset)]

    @router.get("/export", tags=["look"], response_class=StreamingResponse, responses=EXPORTED)
    def export(
        wanted: Annotated[ReportFilter, Depends(report_filter)], kind: Annotated[Format, Query(alias="format")]
    ) -> StreamingResponse:
        """All reports that match, newest first, as CSV or JSONL: the fields of the list. `sort` has no effect."""
        return export_answer(store, wanted, kind)

    @router.get("/reports/{report_id:path}", tags=["look"])
    def report(report_id: Identifier) -> ReportView:
        """One report from message to fix."""
        return report_view(store, config, report_id)

    @router.get("/lessons", tags=["look"])
    def lessons(limit: ManyRows = 50) -> list[Lesson]:
        """The lessons that a training run may use: those of unresolved reports first, then newest first."""
        return store.reports.lessons(limit=limit)

    @router.get("/reviews", tags=["look"])
    def reviews(limit: Limit = 50) -> ReviewQueueView:
        """The review queue: quarantined reports, analyses with something set aside, and the other analyses."""
        return review_queue(store, limit=limit)

    return router


def _generations(store: Store) -> APIRouter:
    router = APIRouter()

    @router.get("/runs", tags=["look"])
    def runs(limit: Limit = 50, offset: Offset = 0) -> list[RunRow]:
        """Newest first."""
        return [RunRow.of(run) for run in store.runs.find(limit=limit, offset=offset)]

    @router.get("/runs/{run_id}", tags=["look"])
    def run(run_id: PathNumber) -> GenerationView:
        return run_view(store, run_id)

    @router.get("/adapters", tags=["look"])
    def adapters(state: AdapterState | None = None, limit: Limit = 50, offset: Offset = 0) -> list[Adapter]:
        """Newest first."""
        return store.adapters.find(state=state, limit=limit, offset=offset)

    @router.get("/adapters/{generation}", tags=["look"])
    def adapter(generation: PathNumber) -> GenerationView:
        return generation_view(store, generation)

    @router.get("/intents/{intent_id}", tags=["look"])
    def intent(intent_id: PathNumber) -> Intent:
        """A requested command and its outcome."""
        return store.intents.get(intent_id)

    return router


def _audit(store: Store) -> APIRouter:
    router = APIRouter()

    @router.get("/audit", tags=["look"])
    def audit(limit: Limit = 50, offset: Offset = 0) -> list[AuditEntry]:
        """The audit log: actor, action and reason, newest first."""
        return store.audit.entries(limit=limit, offset=offset)

    return router


def _certificates(store: Store, config: Config) -> APIRouter:
    router = APIRouter()

    @router.get("/certificate-key", tags=["look"])
    def certificate_key() -> CertificateKey:
        return CertificateKey(public_key=public_key(Keys.of(config)))

    @router.get("/erasures/{report_id:path}", tags=["look"])
    def erasure_of(report_id: Identifier) -> Erasure:
        """Who erased the report, and the signed certificate of what was erased and what remains."""
        return store.erasures.get(report_id)

    return router


def _reviews(store: Store, config: Config, access: Access) -> APIRouter:
    router = APIRouter(tags=["review"])
    reviewer, admin = Depends(require_actor(access, Role.REVIEWER)), Depends(require_actor(access, Role.ADMIN))

    @router.post("/accept")
    def accept(ask: OneReport, actor: str = reviewer) -> ReportRow:
        """Release a quarantined report, or approve an analysis."""
        store.reviews.accept(ask.report_id, actor=actor, reason=ask.reason)
        return ReportRow.of(store.reports.get(ask.report_id))

    @router.post("/correct")
    def correct(ask: Correction, actor: str = reviewer) -> ReportRow:
        """Replace an analysis and its corrected answer."""
        commands.correct_analysis(
            store,
            ask.report_id,
            analysis=ask.analysis,
            correction=ask.correction,
            actor=actor,
            reason=ask.reason,
            max_characters=config.reflection.max_correction_characters,
        )
        return ReportRow.of(store.reports.get(ask.report_id))

    @router.post("/bury")
    def bury(ask: OneReport, actor: str = reviewer) -> ReportRow:
        """Reject a quarantined report, or a report whose analysis must not be trained on."""
        store.reviews.reject(ask.report_id, actor=actor, reason=ask.reason)
        return ReportRow.of(store.reports.get(ask.report_id))

    @router.post("/requeue")
    def requeue(ask: OneReport, actor: str = reviewer) -> ReportRow:
        """Analyse a report again."""
        store.reports.requeue(ask.report_id, actor=actor, reason=ask.reason)
        return ReportRow.of(store.reports.get(ask.report_id))

    @router.post("/original")
    def original(ask: OneReport, actor: str = admin) -> FlaggedResponse:
        """The report before redaction, if it is kept (privacy.keep_original). The reading is in the audit log."""
        return commands.read_original(store, config, ask.report_id, actor=actor, reason=ask.reason)

    @router.post("/erase")
    def erase(ask: OneReport, actor: str = admin) -> ReportRow | ErasedFeedback:
        """Remove a report's content permanently: database, files, caches, dead letters. Its id and lineage stay.

        Feedback that is no report, or none yet, is erased by its id, too.
        """
        certificate = erasure.erase(store, config, ask.report_id, actor=actor, reason=ask.reason)
        try:
            return ReportRow.of(store.reports.get(ask.report_id))
        except NotFoundError:
            return ErasedFeedback(id=ask.report_id, certificate=certificate)

    return router


def _commands(store: Store, access: Access) -> APIRouter:
    router = APIRouter(tags=["steer"])
    operator, admin = Depends(require_actor(access, Role.OPERATOR)), Depends(require_actor(access, Role.ADMIN))

    @router.post("/train", status_code=202)
    def train(ask: Ask, actor: str = operator) -> Intent:
        """Start a training run now, without waiting for the schedule."""
        return commands.request_training(store, actor=actor, reason=ask.reason)

    @router.post("/induce", status_code=202)
    def induce(ask: Ask, actor: str = operator) -> Intent:
        """Provoke mistakes now (red-team) and file them as reports. Refused if induction is disabled."""
        return commands.request_induction(store, actor=actor, reason=ask.reason)

    @router.post("/promote", status_code=202)
    def promote(ask: Generation, actor: str = operator) -> Intent:
        return commands.request_promotion(store, ask.generation, actor=actor, reason=ask.reason)

    @router.post("/reject")
    def reject(ask: Generation, actor: str = operator) -> Adapter:
        """Reject a candidate that passed the gate, so that it never goes live."""
        commands.reject_candidate(store, ask.generation, actor=actor, reason=ask.reason)
        return store.adapters.get(ask.generation)

    @router.post("/rollback", status_code=202)
    def rollback(ask: Rollback, actor: str = operator) -> Intent:
        return commands.request_rollback(store, ask.generation, actor=actor, reason=ask.reason)

    @router.post("/evidence")
    def evidence(ask: OneReport, actor: str = operator) -> ReportRow:
        """Look once more whether the model gave the flagged answer of a claimed or contradicted report."""
        store.evidence.look_again(ask.report_id, actor=actor, reason=ask.reason)
        return ReportRow.of(store.reports.get(ask.report_id))

    @router.post("/approve", status_code=202)
    def approve(ask: Approval, actor: str = admin) -> Intent:
        """Let a rolled-back generation go live again."""
        return commands.approve(store, ask.generation, actor=actor, reason=ask.reason)

    @router.post("/pause")
    def pause(ask: StageAsk, actor: str = operator) -> list[Pause]:
        """Pause one stage, or all. Returns the pauses now in force."""
        commands.pause(store, ask.stage, actor=actor, reason=ask.reason)
        return store.control.pauses()

    @router.post("/resume")
    def resume(ask: StageAsk, actor: str = operator) -> Resumed:
        return Resumed(lifted=commands.resume(store, ask.stage, actor=actor, reason=ask.reason))

    return router
