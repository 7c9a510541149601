"""What happens to messages before they are sent to the server or trained on. Needs no tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from connectors.guidance import fold_system
from daemon.chat.control import ControlTokens
from daemon.chat.thoughts import Split, split_thoughts


class Preparation(BaseModel):
    """The facts of one model that its messages depend on. A process with the tokenizer learns them; others get JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    control_tokens: tuple[str, ...] = ()
    tags: tuple[str, str] | None = None
    """Opening and closing tag of thoughts."""
    has_system_role: bool = True

    @cached_property
    def control(self) -> ControlTokens:
        return ControlTokens(self.control_tokens)

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The messages as they are sent to the server and trained on. Prepared messages do not change again.

        Control tokens in them are broken, thoughts in earlier answers are removed, and the system message is folded
        into the first user message if the template has no system role.
        """
        cleaned = [self.control.escape_message(self._without_thoughts(message)) for message in messages]
        return cleaned if self.has_system_role else fold_system(cleaned)

    def split(self, text: str, *, opened: bool) -> Split:
        """Thoughts and answer. `opened`: the closing tag alone ends thoughts, too; true for texts of the model."""
        return split_thoughts(text, self.tags, opened=opened)

    def _without_thoughts(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        content = message.get("content")
        if message.get("role") != "assistant" or not isinstance(content, str):
            return message
        return {**message, "content": self.split(content, opened=True).answer}
