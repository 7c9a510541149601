"""Decides whether an answer makes the mistake of a flagged answer again. Pure."""

from __future__ import annotations

from connectors.messages.shapes import is_blank
from daemon.text.refusal import refusal
from daemon.text.rules import Rules, failures, lasting
from daemon.text.similarity import Words, cosines, reaches
from daemon.text.words import normalised

RELATED = 0.3
"""Minimum cosine, by words, of an answer that breaks the report's rules and the flagged one.

Rules alone prove nothing: a rule that no answer meets would make every report look reproduced.
"""


def is_back(text: str, flagged: str, rules: Rules | None, *, similarity: float, truncated: bool = False) -> bool:
    """Whether `text` makes the mistake of the `flagged` answer to the same conversation.

    - A blank flagged answer: the answer is blank, too.
    - One of them declines and the other does not: no.
    - With rules: the answer breaks them, and both decline, or the answer is at least RELATED to the flagged one.
    - Without rules: both decline, or they are equal but for case, white space and presentation, or alike by
      `similarity`.

    Args:
        rules: Rules that the flagged answer breaks; None: there are none.
        truncated: The answer was cut at the token limit, so it is compared with as much of the flagged one, and only
            rules count that a longer answer would break, too.
    """
    if is_blank(text) or is_blank(flagged):
        return is_blank(text) and is_blank(flagged)
    if rules is not None and not failures(lasting(rules) if truncated else rules, text):
        return False
    declines = refusal(text) is not None
    if declines != (refusal(flagged) is not None):
        return False
    compared = flagged[: len(text)] if truncated else flagged
    return declines or _alike(text, compared, similarity if rules is None else min(similarity, RELATED))


def _alike(text: str, other: str, similarity: float) -> bool:
    if normalised(text) == normalised(other):
        return True
    words = Words()
    return reaches(float(cosines(words.vectors([text]), words.vectors([other]))[0, 0]), similarity)
