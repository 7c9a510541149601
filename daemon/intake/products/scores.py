"""Scores as thumbs: which scores are a user's feedback, and which values are up or down."""

from __future__ import annotations

import math
from typing import Any

from connectors.messages.shapes import rating
from daemon.intake.formats.cells import LeftOutError, RowError, is_bad
from daemon.intake.products.fields import SHOWN_CHARACTERS, Choices

UNCLEAR = "a score that is neither 0, -1 nor 1; say from which value on it is good (good_from)"


def check_name(name: str, choices: Choices) -> None:
    """Raises LeftOutError for a score that is no feedback of a user."""
    if name not in choices.scores:
        raise LeftOutError(f"the score {name[:SHOWN_CHARACTERS]!r} is not feedback; name it (score)")


def thumb(value: Any, choices: Choices) -> str:
    """'up' or 'down' for the value of a score.

    Raises:
        LeftOutError: the value says neither.
    """
    if isinstance(value, bool):
        return "up" if value else "down"
    if isinstance(value, int | float):
        return _of_number(value, choices.good_from)
    if (found := rating(value)) is not None:
        return str(found)
    try:
        bad = is_bad(value, "value", positive=True)
    except RowError:
        bad = None
    if bad is None:
        raise LeftOutError("the score's text says neither good nor bad")
    return "down" if bad else "up"


def _of_number(value: float, good_from: float | None) -> str:
    if not math.isfinite(value):
        raise LeftOutError("the score is not a number")
    if good_from is not None:
        return "up" if value >= good_from else "down"
    if value not in {-1, 0, 1}:
        raise LeftOutError(UNCLEAR)
    return "up" if value > 0 else "down"
