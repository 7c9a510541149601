"""Examples of the documents, for the API's description. The tests read each of them."""

from __future__ import annotations

from typing import Any

from daemon.intake.products.names import Product

_CHAT = {
    "u1": {"id": "u1", "parentId": None, "childrenIds": ["a1"], "role": "user", "content": "Capital of Australia?"},
    "a1": {"id": "a1", "parentId": "u1", "childrenIds": [], "role": "assistant", "content": "Sydney."},
}
_EVENT = {
    "timeUnixNano": "1795176000000000000",
    "eventName": "gen_ai.evaluation.result",
    "attributes": [
        {"key": "gen_ai.evaluation.name", "value": {"stringValue": "user_feedback"}},
        {"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": 0}},
        {"key": "gen_ai.evaluation.explanation", "value": {"stringValue": "It named Sydney."}},
        {"key": "gen_ai.response.id", "value": {"stringValue": "chatcmpl-4f1c"}},
    ],
}

EXAMPLES: dict[Product, dict[str, dict[str, Any]]] = {
    Product.OPEN_WEBUI: {
        "one item": {
            "summary": "A thumb down with the user's words",
            "value": {
                "id": "0c5a3f4e-6a0b-4a53-9f0f-5b8a0f1f2c11",
                "user_id": "7d1f5a52-1111-4a4e-9a53-0d9f5f1f7c11",
                "type": "rating",
                "data": {"rating": -1, "model_id": "aligned", "comment": "It is Canberra."},
                "meta": {"chat_id": "c1", "message_id": "a1"},
                "snapshot": {"chat": {"chat": {"history": {"messages": _CHAT, "currentId": "a1"}}}},
                "created_at": 1795176000,
                "updated_at": 1795176000,
            },
        }
    },
    Product.LANGFUSE: {
        "a page of scores": {
            "summary": "A thumb down; the completion's id is in the metadata",
            "value": {
                "data": [
                    {
                        "id": "7f3c2d9e",
                        "name": "user-feedback",
                        "value": 0,
                        "dataType": "BOOLEAN",
                        "stringValue": "False",
                        "source": "API",
                        "timestamp": "2026-11-20T12:00:00.000Z",
                        "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
                        "comment": "It named Sydney.",
                        "metadata": {"completion_id": "chatcmpl-4f1c"},
                    }
                ],
                "meta": {"page": 1, "limit": 50, "totalItems": 1, "totalPages": 1},
            },
        }
    },
    Product.OTLP: {
        "an event": {
            "summary": "A thumb down about a completion",
            "value": {"resourceLogs": [{"scopeLogs": [{"logRecords": [_EVENT]}]}]},
        }
    },
}
