"""The API describes itself, and says what is wrong with a request."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from connectors.messages import json_schema


def test_the_api_describes_itself(client: TestClient) -> None:
    spec = client.get("/openapi.json").json()
    operations = [(path, verb, operation) for path, verbs in spec["paths"].items() for verb, operation in verbs.items()]
    assert len(operations) >= 18
    for path, verb, operation in operations:
        success = next(code for code in operation["responses"] if code.startswith("2"))
        content = operation["responses"][success].get("content", {})
        assert any(kind.get("schema") for kind in content.values()) or path == "/metrics", (verb, path)
    body = spec["paths"]["/v1/feedback"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == set(json_schema()["properties"])
    assert "additionalProperties" not in body, "unknown fields are taken"


@pytest.mark.parametrize(
    ("verb", "path", "sent", "status", "said"),
    [
        ("GET", "/api/nothing", {}, 404, "nothing is at this address; /openapi.json lists all addresses"),
        ("DELETE", "/v1/feedback", {}, 405, "DELETE is not taken here; use POST"),
        ("POST", "/v1/feedback", {"content": b""}, 422, "not JSON: it is empty"),
        ("POST", "/v1/feedback", {"json": {"id": "a"}}, 422, "version is missing; this erratad takes 1"),
        ("POST", "/api/train", {"data": {"reason": "x"}}, 422, "body: must be an object with named fields"),
        ("POST", "/api/train", {"json": {"reason": ""}}, 422, "body.reason: must have at least 1 character, and has 0"),
        ("POST", "/api/train", {"json": {"why": "x"}}, 422, "body.why: unknown; remove it, or correct its name"),
        ("POST", "/api/pause", {"content": b"x", "headers": {"content-type": "application/json"}}, 422, "not JSON: "),
        ("GET", f"/api/reports?search={'x' * 201}", {}, 422, "must have at most 200 characters, and has 201"),
        ("GET", "/api/adapters/99999999999999999999", {}, 422, "should be less than or equal to 2147483647"),
        ("GET", "/api/adapters/1", {}, 404, "no generation 1; `erratad adapters` lists them"),
    ],
)
def test_an_error_says_what_is_wrong(
    client: TestClient, verb: str, path: str, sent: dict[str, Any], status: int, said: str
) -> None:
    answer = client.request(verb, path, **sent)
    assert answer.status_code == status
    assert said in answer.json()["error"]["detail"]


def test_an_address_without_an_operation_has_a_reason_of_its_own(client: TestClient) -> None:
    """The command line tells by it a daemon that is older than itself from a report that is not there."""
    assert client.get("/api/nothing").json()["error"]["reason"] == "unknown_address"
    assert client.get("/api/reports/nothing").json()["error"]["reason"] == "not_found"


def test_the_console_says_what_is_wrong_with_a_form(client: TestClient) -> None:
    answer = client.get(f"/reports?search={'x' * 201}")
    assert answer.status_code == 422
    assert "search: must have at most 200 characters, and has 201" in answer.text
