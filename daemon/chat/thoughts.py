"""Separates the thoughts of a reasoning model from its answer, by the tags around them."""

from __future__ import annotations

from typing import Literal, NamedTuple

TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought", "<channel|>"),
)
"""Opening and closing tags of today's model families."""


class Split(NamedTuple):
    """A text in two. `thoughts` is "" if there are none. Without an answer the thoughts were cut."""

    thoughts: str
    answer: str


def find_tags(template: str, reasoning: Literal["auto", "none"] | tuple[str, str]) -> tuple[str, str] | None:
    """The tags of the model: those of the configuration, or those that its template writes."""
    if isinstance(reasoning, tuple):
        return reasoning
    if reasoning == "none":
        return None
    return next((tags for tags in TAGS if tags[0] in template or tags[1] in template), None)


def split_thoughts(text: str, tags: tuple[str, str] | None, *, opened: bool) -> Split:
    """The thoughts at the start of a text, and the answer after them.

    `opened`: the opening tag may stand in the prompt, so that the closing tag alone ends thoughts.
    """
    if tags is None:
        return Split("", text)
    opening, closing = tags
    starts = text.lstrip().startswith(opening)
    if not starts and not (opened and closing in text):
        return Split("", text)
    before, _, answer = text.partition(closing)
    return Split(before.lstrip().removeprefix(opening).strip("\n"), answer.lstrip("\n"))
