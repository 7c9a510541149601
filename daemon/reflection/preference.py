"""Does an analyst prefer a corrected answer to the flagged one?

It is asked twice, with the answers in both orders, and must prefer the correction both times: judges favour a place
(arXiv 2306.05685, section 3.3). It does not see the reporter's reason, which would argue for one side.
"""

from __future__ import annotations

from collections.abc import Callable

import regex

from connectors.chat import Reply
from connectors.messages import FlaggedResponse
from daemon.reflection.analyst import Messages
from daemon.reflection.prompts import Prompts

_VERDICT = regex.compile(r"^\W*BETTER\W+(A|B|NEITHER)\W*$", regex.IGNORECASE | regex.MULTILINE)


def prefers_correction(
    ask: Callable[[Messages], Reply], prompts: Prompts, flagged: FlaggedResponse, correction: str
) -> bool:
    """Whether the correction wins in both orders. A reply without a verdict is no win.

    Raises:
        EndpointError, ServingError, StoppedError: as `ask`.
    """
    answers = correction, flagged.shown_response
    if _better(ask(prompts.preference(flagged, *answers))) != "A":
        return False
    return _better(ask(prompts.preference(flagged, *reversed(answers)))) == "B"


def _better(reply: Reply) -> str | None:
    """The last complete verdict line."""
    verdicts = _VERDICT.findall(reply.text)
    return str(verdicts[-1]).upper() if verdicts else None
