"""The dialect for a model whose tokenizer is not known: an analyst or a judge behind another endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from daemon.chat.control import ControlTokens
from daemon.chat.thoughts import TAGS, Split, split_thoughts

CONTROL_TOKENS = (
    *("<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "[gMASK]", "<sop>", "<eop>"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *(tag for tags in TAGS for tag in tags),
)
"""Control tokens of today's families that do not have the shape `<|name|>`."""
_SHAPE = r"<[|\uff5c][^|\uff5c<>\s]{1,40}[|\uff5c]>"
"""DeepSeek writes U+FF5C."""


class _Foreign:
    """Breaks the control tokens of today's families, and separates thoughts by the tags of any family."""

    anchor = ""

    def __init__(self) -> None:
        self._control = ControlTokens(CONTROL_TOKENS, shape=_SHAPE)

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [self._control.escape_message(message) for message in messages]

    def reply(self, text: str) -> Split:
        for tags in TAGS:
            if tags[0] in text or tags[1] in text:
                return split_thoughts(text, tags, opened=True)
        return Split("", text)

    def written(self, text: str) -> str:
        return self._control.escape(text)


FOREIGN = _Foreign()
