"""The rate limit on feedback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from daemon.config.web import HttpConfig, Role
from daemon.web import rate_limit
from daemon.web.rate_limit import RateLimit
from tests.fixtures.config import flagged
from tests.fixtures.web import bearer


def http(**values: Any) -> HttpConfig:
    return HttpConfig.model_validate(values)


def test_a_caller_who_reports_too_often_is_asked_to_wait(make_client: Callable[..., TestClient]) -> None:
    client = make_client(feedback_per_minute=2)

    def send(role: Role) -> Any:
        return client.post("/v1/feedback", content=flagged().encode(), headers=bearer(role))

    assert [send(Role.REPORTER).status_code for _ in range(3)] == [202, 202, 429]
    refused = send(Role.REPORTER)
    assert refused.json()["error"]["reason"] == "too_many_requests"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert send(Role.ADMIN).status_code == 202, "another caller's bucket"


def test_a_bucket_fills_again_with_time() -> None:
    clock = [0.0]
    limit = RateLimit(60, clock=lambda: clock[0])
    assert [limit.wait_s("a") for _ in range(60)] == [0.0] * 60
    assert limit.wait_s("a") == pytest.approx(1.0)
    clock[0] += 1.0
    assert limit.wait_s("a") == 0.0
    assert limit.wait_s("a") > 0.0
    clock[0] += 3600
    assert sum(limit.wait_s("a") == 0.0 for _ in range(100)) == 60


def test_many_callers_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_CALLERS", 5)
    limit = RateLimit(1, clock=lambda: 0.0)
    for number in range(50):
        limit.wait_s(f"caller {number}")
    assert len(limit._buckets) == 5
    assert limit.wait_s("caller 49") > 0.0
