"""Versioned prompt templates: the analyst's questions, and fixed analyses for when no analyst is asked.

Each version is a folder of Jinja2 files and never changes once released: a lesson names the template that it came from.
Whatever a report says reaches a template as a value, never as template text. Inside a prompt it stands between lines
that carry a fence derived from the SHA-256 of the report's own content, so a flagged text cannot close the quotation.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import regex
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from connectors.messages import FlaggedResponse
from daemon.categories import Kind, kind_of
from daemon.errors import ConfigError

MAX_CONVERSATION_BYTES = 3000
MAX_RESPONSE_BYTES = 2000
MAX_REASON_BYTES = 600
"""Bounds of the quoted texts: together about 1,400 tokens of English, so question and analysis fit into 2,048."""
MAX_REASON_SENTENCE_CHARACTERS = 200
MIN_REASON_WORDS = 3
CUT = " [...] "

_ROOT = Path(__file__).parent
_MARKUP = regex.compile(r"[\p{C}`*#<>\[\]{}|\\~^_]+")
_PERSONAL = regex.compile(r"\b(?:i|me|my|mine|we|us|our|you|your)\b", regex.IGNORECASE)
_SENTENCE_END = tuple(".!?…。！？")  # noqa: RUF001 - full-width marks end Chinese and Japanese sentences


class Prompts:
    """The templates of one version.

    Raises:
        ConfigError: when there is no such version; the text lists those there are.
    """

    def __init__(self, version: str) -> None:
        known = sorted(folder.name for folder in _ROOT.iterdir() if (folder / "analysis-guided.j2").is_file())
        if version not in known:
            raise ConfigError(f"reflection.template: no version {version!r} of the prompts; choose one of {known}")
        self._version = version
        self._environment = Environment(
            loader=FileSystemLoader(_ROOT / version),
            undefined=StrictUndefined,
            autoescape=False,  # noqa: S701 - prompts are plain text, no HTML
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def analysis_name(self, *, guided: bool) -> str:
        return f"{self._version}/analysis-{'guided' if guided else 'unguided'}"

    def template_name(self, kind: Kind) -> str:
        return f"{self._version}/template-{kind}"

    def analysis(self, flagged: FlaggedResponse, *, guided: bool) -> list[dict[str, str]]:
        """The messages that ask for an analysis of the flagged response (method step 2)."""
        template = self._environment.get_template(f"analysis-{'guided' if guided else 'unguided'}.j2")
        context = template.new_context(_quoted(flagged))
        return [
            {"role": role, "content": "".join(template.blocks[role](context)).strip()} for role in ("system", "user")
        ]

    def correction_hint(self, flagged: FlaggedResponse, guidance: str) -> str:
        """What is put before the conversation to get a corrected answer: the guidance and what went wrong."""
        template = self._environment.get_template("correction-guided.j2")
        return template.render(_quoted(flagged), guidance=guidance).strip()

    def category_analysis(self, flagged: FlaggedResponse) -> str:
        """An analysis written without asking anyone: the category's template with the reason, as unguided critique.

        The same report always gets the same text; which of a template's wordings it gets depends on its content.
        """
        kind = kind_of(flagged.category)
        text = self._environment.get_template(f"template-{kind}.j2").render(
            category=flagged.category.replace("-", " ").replace("_", " "),
            reason=reason_sentence(flagged.reason),
            wording=int(flagged.content_key()[-8:], 16),
        )
        return " ".join(text.split())


def fence(flagged: FlaggedResponse) -> str:
    """A marker that the report's own text cannot hold, short of finding a fixed point of SHA-256."""
    return hashlib.sha256(flagged.encode()).hexdigest()[:16]


def clip(text: str, max_bytes: int) -> str:
    """Head and tail of a text longer than `max_bytes` of UTF-8; injected orders often stand at the end."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    half = (max_bytes - len(CUT)) // 2
    return encoded[:half].decode(errors="ignore") + CUT + encoded[-half:].decode(errors="ignore")


def reason_sentence(reason: str) -> str:
    """The user's reason as one short plain sentence; "" when it says too little to be worth a sentence.

    A reason in the first or second person is quoted, since it would read as the assistant's own words. Markup, which
    would be learnt, is left out. Words are not counted where a script may write none apart (Chinese, Thai).
    """
    words = _MARKUP.sub(" ", reason).replace('"', "'").split()
    text = " ".join(words)
    if not text or (text.isascii() and len(words) < MIN_REASON_WORDS):
        return ""
    if len(text) > MAX_REASON_SENTENCE_CHARACTERS:
        text = text[:MAX_REASON_SENTENCE_CHARACTERS]
        text = (text.rpartition(" ")[0] or text).rstrip(" ,;:")
    text = text[0].upper() + text[1:]
    if not text.endswith(_SENTENCE_END):
        text += "."
    return f'In the words of a user: "{text}"' if _PERSONAL.search(text) else text


def _quoted(flagged: FlaggedResponse) -> dict[str, str]:
    conversation = "\n".join(f"{message.role}: {message.content}" for message in flagged.messages)
    return {
        "fence": fence(flagged),
        "category": flagged.category,
        "conversation": clip(conversation, MAX_CONVERSATION_BYTES),
        "response": clip(flagged.response, MAX_RESPONSE_BYTES),
        "reason": clip(flagged.reason, MAX_REASON_BYTES),
    }
