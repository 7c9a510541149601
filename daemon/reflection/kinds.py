"""Guesses the kind of a mistake whose report names no category. A guess groups reports; it is no evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import regex

from connectors.chat import Reply
from connectors.messages import FlaggedResponse
from daemon.categories import Kind
from daemon.reflection.analyst import Messages
from daemon.reflection.prompts import Prompts

MAX_TOKENS = 24
_KINDS = "|".join(kind.value.replace("-", r"[\s_-]+") for kind in Kind)
_NAMES = regex.compile(rf"(?<![\w-])(?:{_KINDS})(?![\w-])", regex.IGNORECASE)


def guess(
    ask: Callable[[Messages], Reply], prompts: Prompts, flagged: FlaggedResponse, *, failed: Sequence[str]
) -> Kind:
    """The kind that the analyst names; `Kind.DEFAULT` if it names none, or several.

    Raises:
        EndpointError, ServingError, StoppedError: as `ask`.
    """
    return named(ask(prompts.kind(flagged, failed=failed)).text)


def named(text: str) -> Kind:
    """The one kind in a reply, or else the catch-all kind."""
    found = {regex.sub(r"[\s_-]+", "-", name.lower()) for name in _NAMES.findall(text)}
    return Kind(found.pop()) if len(found) == 1 else Kind.DEFAULT
