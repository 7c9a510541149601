"""Control tokens in texts of users: they are broken by a space, so that no tokenizer reads them as control tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any


class ControlTokens:
    """The control tokens of one tokenizer, as texts. `shape`: a regular expression for further ones.

    The same text goes to the server, which tokenizes it itself, and into the training prompt. So it is the text that
    is changed: `<|im_end|>` becomes `< |im_end|>`. A text without control tokens stays as it is.
    """

    def __init__(self, tokens: Iterable[str], *, shape: str = r"(?!)") -> None:
        longest_first = sorted({token for token in tokens if len(token.strip()) > 1}, key=lambda one: (-len(one), one))
        self.tokens = tuple(longest_first)
        self.pattern = re.compile("|".join([*map(re.escape, longest_first), shape]))

    def escape(self, text: str) -> str:
        """The text with a space after the first visible character of each control token."""
        while (broken := self.pattern.sub(_broken, text)) != text:  # two halves may form another token
            text = broken
        return text

    def first(self, text: str) -> str | None:
        """The first control token in the text."""
        found = self.pattern.search(text)
        return found[0] if found else None

    def escape_all(self, value: Any) -> Any:
        """The JSON value with all its texts escaped, keys too."""
        if isinstance(value, str):
            return self.escape(value)
        if isinstance(value, Mapping):
            return {self.escape(str(key)): self.escape_all(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.escape_all(item) for item in value]
        return value

    def escape_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The message with all its texts escaped, also those inside the JSON text of tool-call arguments."""
        escaped: dict[str, Any] = self.escape_all(message)
        for call in escaped.get("tool_calls") or ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict) and isinstance(function.get("arguments"), str):
                function["arguments"] = self._escape_json(function["arguments"])
        return escaped

    def _escape_json(self, text: str) -> str:
        try:
            parsed = json.loads(text)
        except ValueError:
            return text
        escaped = self.escape_all(parsed)
        return text if escaped == parsed else json.dumps(escaped, ensure_ascii=False)


def _broken(found: re.Match[str]) -> str:
    token = found[0]
    head = len(token) - len(token.lstrip()) + 1
    return f"{token[:head]} {token[head:]}"


def control_tokens(tokenizer: Any, template: str) -> dict[str, int]:
    """Text -> id of a tokenizer's control tokens: its special tokens, and the added ones that the template writes.

    Added tokens that are neither, such as Gemma's `<table>` or runs of spaces, are ordinary text.
    """
    added = {token.content: (number, token.special) for number, token in tokenizer.added_tokens_decoder.items()}
    named = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}
    return named | {text: number for text, (number, special) in added.items() if special or text in template}
