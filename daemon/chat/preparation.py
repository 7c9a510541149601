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

    template: str = ""
    """SHA-256 of the template and its variables: answers made under another one are other answers."""
    control_tokens: tuple[str, ...] = ()
    tags: tuple[str, str] | None = None
    """Opening and closing tag of thoughts."""
    has_system_role: bool = True
    opens_thoughts: bool = False
    """The prompt ends with the opening tag, so that an answer begins within thoughts."""
    keeps_thoughts: bool = False
    """The model writes thoughts, so they are a part of what it learns."""
    opening: str = ""
    """The text between the generation prompt and an answer without thoughts, e.g. an empty block of thoughts."""
    block: tuple[str, str] = ("", "")
    """The texts between the generation prompt and thoughts, and between thoughts and answer."""
    anchor: str = ""
    """A text to put before an answer, to get the token ids that it has after a prompt: SentencePiece begins a text that
    stands alone with a space."""

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

    def reply(self, text: str) -> Split:
        """Thoughts and answer of a text that the model wrote after a prompt. The answer of cut thoughts is empty."""
        if self.tags is not None and self.opens_thoughts and self.tags[1] not in text:
            return Split(text.strip("\n"), "")
        return self.split(text, opened=True)

    def whole(self, thoughts: str, answer: str) -> str:
        """The two in one text, which `split` takes apart."""
        if self.tags is None or not thoughts:
            return answer
        return f"{self.tags[0]}\n{thoughts}\n{self.tags[1]}\n\n{answer}"

    def written(self, text: str) -> str:
        """The text after the generation prompt when the model gives this answer: with its block of thoughts."""
        thoughts, answer = self.split(text, opened=True)
        before, after = self.block
        start = f"{before}{self.control.escape(thoughts)}{after}" if thoughts and self.keeps_thoughts else self.opening
        return f"{start}{self.control.escape(answer)}"

    def _without_thoughts(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        content = message.get("content")
        if message.get("role") != "assistant" or not isinstance(content, str):
            return message
        return {**message, "content": self.split(content, opened=True).answer}
