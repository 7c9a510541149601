"""Structured logs: one JSON object (or text line) per event, with report and adapter ids as fields.

They hold no text of users, and no check of a report, unless `log.level` is debug. Errors may quote such texts: a
server's answer, a value that did not fit, the end of another process's log. What follows their fixed words is cut.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from typing import Any

import structlog

from connectors.chat import EndpointError
from daemon.config import LogConfig
from daemon.errors import ErratadError

CUT = "[cut; log.level debug shows it]"
_QUOTES = re.compile(
    r"(HTTP \d{3}|sent an unexpected response|\d+ validation errors? for \w+|analysis rejected by check '[^']*'"
    r"|it fails a check of the report|the end of its log|the chat template refuses it"
    r"|is not an example|the process that reads conversations [^:]*|no vectors from [^:]*: the child [^:]*"
    r"|refuses the conversation '[^']*', which the trainer reads):?\s.*",
    re.DOTALL,
)
"""The fixed words of errors, before words that they quote."""
_OWN = (ErratadError, EndpointError, OSError)
"""Exceptions whose text is ours. Others may quote any value."""


def configure(config: LogConfig) -> None:
    """Write records of structlog and of libraries to stderr, with one renderer."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if config.level == "debug" else _EXCEPTIONS,
    ]
    if config.level != "debug":
        shared.append(without_quotes)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if config.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    for noisy in ("httpx", "httpcore", "apscheduler", "alembic", "uvicorn"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # during an outage kafka-python logs several lines a second; connectors.kafka adds the last one to its errors
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.getLogger("kafka.net").setLevel(logging.WARNING)
    logging.getLogger("kafka.net").propagate = False


def without_quotes(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Cut the texts of an event after the fixed words of an error. `_described` has done so for an exception."""
    return {key: value if key == "exception" else _cut(value) for key, value in event.items()}


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return _QUOTES.sub(rf"\1: {CUT}", value)
    return [_cut(one) for one in value] if isinstance(value, list | tuple) else value


def _described(exc_info: structlog.typing.ExcInfo) -> str:
    """The traceback without the texts of exceptions that may quote any value."""
    lines: list[str] = []
    exception: BaseException | None = exc_info[1]
    seen: set[int] = set()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        text = _cut(str(exception)) if isinstance(exception, _OWN) else CUT
        lines[:0] = [*traceback.format_tb(exception.__traceback__), f"{type(exception).__qualname__}: {text}\n"]
        exception = exception.__cause__ or (None if exception.__suppress_context__ else exception.__context__)
    return "".join(lines).rstrip()


_EXCEPTIONS = structlog.processors.ExceptionRenderer(_described)
