"""The API describes itself."""

from __future__ import annotations

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
