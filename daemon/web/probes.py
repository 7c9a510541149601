"""`/livez`, `/readyz` and `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from daemon.operations.gauges import exposition
from daemon.operations.health import Health
from daemon.operations.shown import View


class LiveView(View):
    alive: bool
    stalled: list[str]
    """Stages without a step for `http.max_stall_s` seconds."""


class ReadyView(View):
    ready: bool
    missing: list[str]


def probes_router(health: Health) -> APIRouter:
    router = APIRouter(tags=["operations"])

    # async: it must answer even if every worker thread waits for the database
    @router.get("/livez")
    async def livez(response: Response) -> LiveView:
        """200 while every stage makes progress. A paused stage counts as making progress."""
        live = health.live()
        response.status_code = 200 if live.alive else 503
        return LiveView(alive=live.alive, stalled=list(live.stalled))

    @router.get("/readyz")
    def readyz(response: Response) -> ReadyView:
        """200 if the database answers, a server serves the live generation, and the intake is connected."""
        ready = health.ready()
        response.status_code = 200 if ready.ready else 503
        return ReadyView(ready=ready.ready, missing=list(ready.missing))

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(exposition(), media_type=CONTENT_TYPE_LATEST)

    return router
