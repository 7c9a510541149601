"""Section `chat`: how conversations become prompts, in training and in serving alike."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import field_validator

from daemon.config.section import Section

RESERVED = frozenset(
    {"chat_template", "tokenize", "messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}
)
"""Variables of a chat template that each request sets."""


class ChatConfig(Section):
    template: Path | None = None
    """File with a Jinja chat template; None: the model's own."""
    kwargs: dict[str, Any] = {}
    """Variables of the template for every request, e.g. {enable_thinking: false}."""
    default_system: str | None = None
    """System message of conversations without one; None: the template decides. "" is an empty system message."""
    date: datetime.date | None = None
    """The day that a template with today's date shows instead of it; None: today."""
    reasoning: Literal["auto", "none"] | tuple[str, str] = "auto"
    """Tags around the model's thoughts: found in the template, none, or [opening, closing]."""

    def absolute(self) -> Self:
        """The same section for a process with another working directory."""
        return self.model_copy(update={"template": self.template and self.template.absolute()})

    @field_validator("kwargs")
    @classmethod
    def _not_reserved(cls, values: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(RESERVED & values.keys()):
            raise ValueError(f"{', '.join(taken)}: each request sets these itself; remove them")
        return values
