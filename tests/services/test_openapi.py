"""The OpenAPI document, attacked: no request gets a 5xx, and all errors have one shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings

from daemon.config import Config
from daemon.intake.stage import FeedbackIntake
from daemon.operations.health import Health
from daemon.runtime.stage import LastSteps
from daemon.store import Store
from daemon.web.app import create_app
from tests.fakes.fleet import fleet_of

TOKEN = "a-good-token"
EXAMPLES = 12
"""Per operation: all of them take some 20 s."""


@pytest.fixture
def attacked(history: Store, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ERRATAD_TEST_TOKEN", TOKEN)
    config = make_config(http={"token_env": "ERRATAD_TEST_TOKEN"})
    app: FastAPI = create_app(
        store=history,
        intake=FeedbackIntake(reports=history.reports, config=config.intake),
        config=config,
        health=Health(last_steps=LastSteps(), store=history, fleet=fleet_of(), base_name="base", max_stall_s=120),
    )
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "127.0.0.1"})


def test_no_request_brings_the_server_to_its_knees(attacked: Any) -> None:
    asked: dict[str, set[int]] = {}
    for found in attacked.get_all_operations():
        operation = found.ok()
        if operation.path == "/readyz":  # 503 is its answer where no server runs
            continue
        asked[operation.label] = _attack(operation)
    assert len(asked) >= 25
    answered_well = [label for label, codes in asked.items() if any(code < 300 for code in codes)]
    assert len(answered_well) >= 10, asked  # otherwise only refusals were tested


def _attack(operation: Any) -> set[int]:
    """Send generated requests; returns the status codes of the answers."""
    codes: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy())
    def attack(case: schemathesis.Case) -> None:
        answer = case.call(headers={"Host": "127.0.0.1", "Authorization": f"Bearer {TOKEN}"})
        codes.add(answer.status_code)
        assert answer.status_code < 500, case.as_curl_command()
        assert answer.status_code != 401, case.as_curl_command()
        if answer.status_code >= 400:
            assert set(answer.json()) == {"error"}, case.as_curl_command()

    attack()
    return codes
