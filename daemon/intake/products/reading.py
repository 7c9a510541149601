"""From the document of a product to messages of the wire schema, one per item. A bad item loses only itself.

The id of a message is derived from the item, with the product's own ids, so an item that comes again is stored once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from connectors.messages import MAX_MESSAGE_BYTES, FlaggedResponse, MessageRejected, decode
from daemon.intake.formats.cells import LeftOutError, RowError
from daemon.intake.products import langfuse, open_webui, otlp
from daemon.intake.products.fields import Choices, Item
from daemon.intake.products.names import Product
from daemon.intake.refusals import NO_RECORD


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    title: str
    items: Callable[[Any], list[Any]]
    message: Callable[[Item, Choices], dict[str, Any]]


_READERS = {
    Product.OPEN_WEBUI: _Reader(title="feedback of Open WebUI", items=open_webui.items, message=open_webui.message),
    Product.LANGFUSE: _Reader(title="scores of Langfuse", items=langfuse.items, message=langfuse.message),
    Product.OTLP: _Reader(title="events of OpenTelemetry", items=otlp.items, message=otlp.message),
}


def title_of(product: Product) -> str:
    return _READERS[product].title


def items_of(product: Product, document: Any) -> list[Any]:
    """The items of a document. Raises RowError if it is not of this product at all."""
    return _READERS[product].items(document)


def message_of(product: Product, item: Any, choices: Choices) -> bytes:
    """The encoded message of an item.

    Raises:
        LeftOutError: it is no feedback about an answer of the model served here.
        RowError: names the field that is missing or wrong.
    """
    if not isinstance(item, Mapping):
        raise RowError("item", "must be an object")
    try:
        values = _READERS[product].message(item, choices)
        values = {name: one for name, one in values.items() if one is not None}
        canonical = json.dumps(values, sort_keys=True)
    except RecursionError as exc:
        raise RowError("item", "is nested too deeply") from exc
    found = hashlib.sha256(canonical.encode()).hexdigest()[:32]
    return json.dumps({**values, "id": f"{product}-{found}"}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductFile:
    """How to read a file of a product."""

    product: Product
    choices: Choices
    exchanges: bool
    """Whether the servers remember their answers (`serving.exchanges`)."""
    encoding: str | None = None
    delimiter: str | None = None
    max_bytes: int = MAX_MESSAGE_BYTES
    """Size limit of one message."""

    def report_of(self, item: Any) -> FlaggedResponse:
        """The message of an item.

        Raises:
            LeftOutError: it is no feedback, or only a record that no server keeps could complete it.
            RowError: names the field that is missing or wrong.
        """
        try:
            flagged = decode(message_of(self.product, item, self.choices), max_bytes=self.max_bytes)
        except MessageRejected as exc:
            name, _, detail = exc.detail.partition("; ")[0].partition(": ")
            raise RowError(name if detail else "item", detail or exc.detail) from exc
        if flagged.is_awaited and not self.exchanges:
            raise LeftOutError(NO_RECORD)
        return flagged
