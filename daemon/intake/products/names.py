"""The products whose feedback erratad reads. The command line imports this at its start, so it stays small."""

from __future__ import annotations

from enum import StrEnum


class Product(StrEnum):
    OPEN_WEBUI = "open-webui"
    LANGFUSE = "langfuse"
    OTLP = "otlp"
