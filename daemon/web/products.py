"""`/v1/feedback/open-webui`, `/v1/feedback/langfuse` and `/v1/logs` (OTLP): feedback as other products hold it."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import JSONResponse

from connectors.messages import MessageRejected, Rejection, document
from daemon.config import Config
from daemon.config.web import Role
from daemon.intake.formats.cells import LeftOutError, RowError
from daemon.intake.products.examples import EXAMPLES
from daemon.intake.products.fields import SCORES, Choices
from daemon.intake.products.names import Product
from daemon.intake.products.otlp_encoding import PROTOBUF, document_of, encoded_answer, json_answer
from daemon.intake.products.reading import items_of, message_of
from daemon.intake.refusals import QuotaExceeded
from daemon.intake.stage import FeedbackIntake
from daemon.operations.shown import View
from daemon.web.access import Access, Identity
from daemon.web.dependencies import rate_limited, raw_body, require_caller
from daemon.web.rate_limit import RateLimit

MAX_ITEMS = 1000
SHOWN = 20
Names = Annotated[list[str], Query(max_length=100)]


class ItemTaken(View):
    item: int
    """Its place in the document, from 0."""
    id: str
    """For `GET /v1/feedback/ID`."""
    outcome: str


class ItemsLeftOut(View):
    reason: str
    items: int


class ItemProblem(View):
    item: int
    reason: str
    detail: str


class ItemsAccepted(View):
    """What became of the items of a document. A bad item loses only itself."""

    items: int
    taken: list[ItemTaken]
    left_out: list[ItemsLeftOut]
    """Items that hold no feedback about an answer of the model served here; the first 20 reasons."""
    refused: int
    problems: list[ItemProblem]
    """The first 20 refused items."""


def products_router(intake: FeedbackIntake, access: Access, limit: RateLimit, config: Config) -> APIRouter:
    router = APIRouter(tags=["feedback"], dependencies=[Depends(rate_limited(limit, access))])
    signed_in = Depends(require_caller(access, Role.REPORTER))
    sources, alias, max_bytes = config.sources, config.serving.alias, config.intake.max_message_bytes

    def take(
        product: Product, raw: bytes, caller: Identity, choices: Choices, *, is_protobuf: bool = False
    ) -> ItemsAccepted:
        found = (document_of if is_protobuf else document)(raw, max_bytes=max_bytes)
        return taken(intake, product, found, choices, principal=caller.principal(sources))

    @router.post("/v1/feedback/open-webui", status_code=202, openapi_extra=_body(Product.OPEN_WEBUI))
    def open_webui(
        raw: Annotated[bytes, Depends(raw_body)],
        caller: Identity = signed_in,
        model: Names = [],  # noqa: B006 - FastAPI copies it
        edits: bool = False,  # noqa: FBT001, FBT002
    ) -> ItemsAccepted:
        """Feedback of Open WebUI: its export, or one item of it. Sending it again is safe.

        `model`: Open WebUI's name of the model, if it is not the alias. `edits`: a changed answer is the user's better
        answer.
        """
        choices = Choices(alias=alias, models=frozenset(model), edits=edits)
        return take(Product.OPEN_WEBUI, raw, caller, choices)

    @router.post("/v1/feedback/langfuse", status_code=202, openapi_extra=_body(Product.LANGFUSE))
    def langfuse(
        raw: Annotated[bytes, Depends(raw_body)],
        caller: Identity = signed_in,
        model: Names = [],  # noqa: B006
        score: Names = [],  # noqa: B006
        good_from: float | None = None,
    ) -> ItemsAccepted:
        """Scores of Langfuse: a page of its list, rows of its export, or one trace. Sending them again is safe.

        `score`: the names that are a user's feedback. `good_from`: a number from here on is a thumb up, a lower one a
        thumb down; without it, 1 is up, and 0 and -1 are down.
        """
        names = frozenset(score) or SCORES
        choices = Choices(alias=alias, models=frozenset(model), scores=names, good_from=good_from)
        return take(Product.LANGFUSE, raw, caller, choices)

    @router.post("/v1/logs", response_model=None, responses=_OTLP_ANSWERS, openapi_extra=_OTLP_BODY)
    def logs(
        raw: Annotated[bytes, Depends(raw_body)],
        caller: Identity = signed_in,
        score: Names = [],  # noqa: B006
        good_from: float | None = None,
        content_type: Annotated[str, Header()] = "application/json",
    ) -> Response:
        """OpenTelemetry logs over HTTP: events `gen_ai.evaluation.result` about completions. Others are ignored.

        `score` and `good_from`: as for Langfuse, for `gen_ai.evaluation.name` and `gen_ai.evaluation.score.value`.
        """
        is_protobuf = content_type.partition(";")[0].strip().lower() == PROTOBUF
        choices = Choices(alias=alias, scores=frozenset(score) or SCORES, good_from=good_from)
        found = take(Product.OTLP, raw, caller, choices, is_protobuf=is_protobuf)
        said = _in_short(found)
        if is_protobuf:
            return Response(encoded_answer(rejected=found.refused, said=said), media_type=PROTOBUF)
        return JSONResponse(json_answer(rejected=found.refused, said=said))

    return router


_OTLP_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}, "examples": EXAMPLES[Product.OTLP]},
            PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_OTLP_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "ExportLogsServiceResponse, encoded as the request. `partialSuccess` says what was not taken.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def _in_short(found: ItemsAccepted) -> str:
    """The first problem and the first reason for which events were left out."""
    problems = [f"{one.reason}: {one.detail}" for one in found.problems[:1]]
    left_out = [f"{one.items} left out: {one.reason}" for one in found.left_out[:1]]
    return "; ".join([*problems, *left_out])


def taken(intake: FeedbackIntake, product: Product, found: Any, choices: Choices, *, principal: str) -> ItemsAccepted:
    """Store the feedback of a document.

    Raises:
        MessageRejected: it is no document of this product, or has too many items, or no item can be read.
        QuotaExceeded: the principal has no quota left for all of them.
        StoreUnavailableError: no item is stored.
    """
    items = _items(product, found)
    messages: dict[int, bytes] = {}
    left_out: Counter[str] = Counter()
    problems: dict[int, MessageRejected] = {}
    for number, item in enumerate(items):
        try:
            messages[number] = message_of(product, item, choices)
        except LeftOutError as exc:
            left_out[str(exc)] += 1
        except RowError as exc:
            problems[number] = MessageRejected(Rejection.SCHEMA_VIOLATION, str(exc))
    stored: list[ItemTaken] = []
    for number, one in zip(messages, intake.submit_all(list(messages.values()), principal=principal), strict=True):
        if isinstance(one, QuotaExceeded):
            raise one
        if isinstance(one, MessageRejected):
            problems[number] = one
        else:
            stored.append(ItemTaken(item=number, id=one.report_id, outcome=one.outcome))
    if problems and len(problems) == len(items):
        raise problems[0]
    shown = sorted(problems.items())[:SHOWN]
    return ItemsAccepted(
        items=len(items),
        taken=stored,
        left_out=[ItemsLeftOut(reason=reason, items=count) for reason, count in left_out.most_common(SHOWN)],
        refused=len(problems),
        problems=[ItemProblem(item=number, reason=one.reason, detail=one.detail) for number, one in shown],
    )


def _items(product: Product, found: Any) -> list[Any]:
    try:
        items = items_of(product, found)
    except RowError as exc:
        raise MessageRejected(Rejection.SCHEMA_VIOLATION, str(exc)) from exc
    if len(items) > MAX_ITEMS:
        raise MessageRejected(Rejection.OVERSIZED, f"{len(items)} items; at most {MAX_ITEMS} are taken in one request")
    return items


def _body(product: Product) -> dict[str, Any]:
    schema = {"type": ["object", "array"]}
    content = {"schema": schema, "examples": EXAMPLES[product]}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}
