"""Probes and metrics."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from fastapi.testclient import TestClient

from daemon import metrics
from tests.fixtures.web import BASE_URL, Condition


def test_the_probes_say_what_is_wrong(make_app: Callable[..., FastAPI]) -> None:
    app = make_app(Condition(stalled=("ingest",), missing=("serving: none",)))
    with TestClient(app, base_url=BASE_URL) as client:
        live, ready = client.get("/livez"), client.get("/readyz")
    assert (live.status_code, live.json()) == (503, {"alive": False, "stalled": ["ingest"]})
    assert (ready.status_code, ready.json()) == (503, {"ready": False, "missing": ["serving: none"]})


def test_metrics_are_prometheus_text(client: TestClient) -> None:
    metrics.LIVE_GENERATION.set(3)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "erratad_live_generation 3.0" in answer.text
