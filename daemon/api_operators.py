"""`/api`: what operators look at, and what they may ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, ConfigDict, Field

from connectors.messages import Identifier, Text
from daemon import steering
from daemon.config import Config
from daemon.records import AdapterState, ReportState
from daemon.status import PauseView, StatusView, status
from daemon.store import Store
from daemon.views import (
    AdapterRow,
    GenerationView,
    IntentView,
    ReportRow,
    ReportView,
    RunRow,
    generation_view,
    report_view,
    run_view,
)

Limit = Annotated[int, Query(ge=1, le=1000)]
Actor = Annotated[
    str, Header(alias="X-Erratad-Actor", max_length=200, pattern=r"^[\x20-\x7e]+$", description="For the audit log.")
]
Reason = Annotated[Text, Field(min_length=1, max_length=1000)]


class Ask(BaseModel):
    """`reason` goes into the audit log."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    reason: Reason = "no reason given"


class PromotionStage(Ask):
    generation: Annotated[int, Field(ge=0)]


class Rollback(Ask):
    generation: Annotated[int, Field(ge=0)] | None = None
    """None: the generation that was live before."""


class StageAsk(Ask):
    stage: str = "all"


class Resumed(BaseModel):
    lifted: bool
    """False when nothing was paused."""


def operators_router(store: Store, config: Config) -> APIRouter:
    router = APIRouter(prefix="/api")
    _add_listings(router, store, config)
    _add_steering(router, store)
    return router


def _add_listings(router: APIRouter, store: Store, config: Config) -> None:
    @router.get("/status", tags=["look"])
    def get_status() -> StatusView:
        return status(store, config)

    @router.get("/reports", tags=["look"])
    def reports(
        state: ReportState | None = None,
        category: Text | None = None,
        search: Annotated[Text | None, Query(description="Part of an id.")] = None,
        limit: Limit = 50,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> list[ReportRow]:
        """Newest first."""
        found = store.reports.find(state=state, category=category, search=search, limit=limit, offset=offset)
        return [ReportRow.of(report) for report in found]

    @router.get("/reports/{report_id:path}", tags=["look"])
    def report(report_id: Identifier) -> ReportView:
        """One report from message to fix."""
        return report_view(store, report_id)

    @router.get("/runs", tags=["look"])
    def runs(limit: Limit = 50) -> list[RunRow]:
        """Newest first."""
        return [RunRow.of(run) for run in store.runs.find(limit=limit)]

    @router.get("/runs/{run_id}", tags=["look"])
    def run(run_id: int) -> GenerationView:
        return run_view(store, run_id)

    @router.get("/adapters", tags=["look"])
    def adapters(state: AdapterState | None = None, limit: Limit = 50) -> list[AdapterRow]:
        """Newest first."""
        return [AdapterRow.of(adapter) for adapter in store.adapters.find(state=state, limit=limit)]

    @router.get("/adapters/{generation}", tags=["look"])
    def adapter(generation: int) -> GenerationView:
        return generation_view(store, generation)

    @router.get("/intents/{intent_id}", tags=["look"])
    def intent(intent_id: int) -> IntentView:
        """What became of something asked for."""
        return IntentView.of(store.control.intent(intent_id))


def _add_steering(router: APIRouter, store: Store) -> None:
    @router.post("/train", status_code=202, tags=["steer"])
    def train(ask: Ask, actor: Actor = "api") -> IntentView:
        """Start a training run now, whatever the schedule says."""
        return IntentView.of(steering.request_training(store, actor=actor, reason=ask.reason))

    @router.post("/promote", status_code=202, tags=["steer"])
    def promote(ask: PromotionStage, actor: Actor = "api") -> IntentView:
        intent = steering.request_promotion(store, ask.generation, actor=actor, reason=ask.reason)
        return IntentView.of(intent)

    @router.post("/rollback", status_code=202, tags=["steer"])
    def rollback(ask: Rollback, actor: Actor = "api") -> IntentView:
        intent = steering.request_rollback(store, ask.generation, actor=actor, reason=ask.reason)
        return IntentView.of(intent)

    @router.post("/pause", tags=["steer"])
    def pause(ask: StageAsk, actor: Actor = "api") -> list[PauseView]:
        """Pause one stage, or all; returns what is paused now."""
        steering.pause(store, ask.stage, actor=actor, reason=ask.reason)
        return [PauseView.model_validate(pause) for pause in store.control.pauses()]

    @router.post("/resume", tags=["steer"])
    def resume(ask: StageAsk, actor: Actor = "api") -> Resumed:
        return Resumed(lifted=steering.resume(store, ask.stage, actor=actor, reason=ask.reason))
