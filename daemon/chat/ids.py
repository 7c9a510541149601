"""Text to token ids, as a continuation of a prompt whose ids are fixed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from daemon.chat.control import ControlTokens
from daemon.errors import UnrenderableError
from daemon.labels import LeftOut

Ids = tuple[int, ...]
_ANCHORS = ("\n", "a")
"""Texts put before a target, to get its ids in the middle of a text."""


class Piece(NamedTuple):
    """A part of a target. `plain`: written by a user or the model, so that control tokens in it are text."""

    text: str
    plain: bool


class IdWriter:
    """Token ids by one tokenizer of transformers. `control_ids`: the control tokens' texts and ids."""

    def __init__(self, tokenizer: Any, control_ids: dict[str, int]) -> None:
        self._tokenizer = tokenizer
        self._control_ids = control_ids
        self._control = ControlTokens(control_ids)

    def ids(self, text: str) -> Ids:
        """Ids of a rendered prompt: control tokens count."""
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def plain_ids(self, text: str) -> Ids:
        """Ids without control tokens, even if the text spells one.

        Raises:
            UnrenderableError: if the tokenizer has no other ids for it.
        """
        spelled = self._control.first(text)
        if spelled is None:
            return self.ids(text)
        forbidden = set(self._control_ids.values())
        unaware = self._unaware
        if unaware is not None and forbidden.isdisjoint(ids := unaware.encode(text, add_special_tokens=False).ids):
            return tuple(ids)
        if forbidden.isdisjoint(escaped := self.ids(self._control.escape(text))):
            return escaped
        raise UnrenderableError(LeftOut.CONTROL_TOKENS, f"the tokenizer cannot write {spelled!r} as text")

    def continuation(self, prompt: str, prompt_ids: Ids, pieces: Sequence[Piece]) -> Ids:
        """Ids of the pieces after the prompt.

        Raises:
            UnrenderableError: if the tokenizer cannot write a piece there, or a control token as text.
        """
        written: Ids = ()
        for text, plain in _joined(pieces):
            written += self._continue(prompt, prompt_ids + written, text, plain=plain)
            prompt += text
        return written

    def anchor(self, text: str, ids: Ids) -> str:
        """The text after which the tokenizer makes these ids of `text`; "" if it makes them of the text alone."""
        for anchor in ("", *_ANCHORS):
            start, whole = self.ids(anchor), self.ids(anchor + text)
            if whole == start + ids:
                return anchor
        return ""

    def _continue(self, context: str, context_ids: Ids, text: str, *, plain: bool) -> Ids:
        tail = context_ids[-1:]
        before = len(self._decode(tail))
        for ids in self._candidates(context, context_ids, text, plain=plain):
            if _lead(self._decode(tail + ids)[before:]) == _lead(text):
                return ids
        raise UnrenderableError(LeftOut.TEMPLATE_REFUSES, "the tokenizer cannot write the answer after the prompt")

    def _candidates(self, context: str, context_ids: Ids, text: str, *, plain: bool) -> Iterator[Ids]:
        """Ids of the text alone; SentencePiece may begin them with a space, so then those in the middle of a text."""
        encode: Callable[[str], Ids] = self.plain_ids if plain else self.ids
        yield encode(text)
        if not plain or self._control.first(text) is None:
            whole = self.ids(context + text)
            if whole[: len(context_ids)] == context_ids:
                yield whole[len(context_ids) :]
        for anchor in _ANCHORS:
            start, whole = encode(anchor), encode(anchor + text)
            if whole[: len(start)] == start:
                yield whole[len(start) :]

    def _decode(self, ids: Ids) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @cached_property
    def _unaware(self) -> Any:
        """A copy of the tokenizer that knows no control tokens; None for a tokenizer in Python."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        parts = json.loads(backend.to_str())
        parts["added_tokens"] = [token for token in parts["added_tokens"] if token["content"] not in self._control_ids]
        parts["post_processor"] = parts["truncation"] = parts["padding"] = None
        return type(backend).from_str(json.dumps(parts))


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces with neighbours of one kind joined: a tokenizer merges letters across their border."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].plain == piece.plain:
            joined[-1] = Piece(joined[-1].text + piece.text, piece.plain)
        elif piece.text:
            joined.append(piece)
    return joined


def _lead(text: str) -> str:
    """The white space at the start."""
    return text[: len(text) - len(text.lstrip())]
