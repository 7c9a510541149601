"""Versioned prompt templates: questions for the analyst, and fixed analyses for use without an analyst.

Each version is a folder of Jinja2 files. A released version never changes, because lessons refer to their template.
The texts of a report are template values, never template source. In a prompt they are quoted between two fence lines.
The fence is derived from the SHA-256 of the report, so a flagged text cannot close the quotation.
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
"""Limits of the quoted texts: about 1,400 English tokens together, so question and analysis fit into 2,048."""
MAX_REASON_SENTENCE_CHARACTERS = 200
MIN_REASON_WORDS = 3
CUT = " [...] "
NO_REASON = "(no reason was given)"

_ROOT = Path(__file__).parent
_MARKUP = regex.compile(r"[\p{C}`*#<>\[\]{}|\\~^_]+")
_PERSONAL = regex.compile(r"\b(?:i|me|my|mine|we|us|our|you|your)\b", regex.IGNORECASE)
_SENTENCE_END = tuple(".!?…。！？")  # noqa: RUF001 - full-width marks end Chinese and Japanese sentences


class Prompts:
    """The templates of one version.

    Raises:
        ConfigError: if the version does not exist; the message lists the versions.
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
        """The messages that request an analysis of the flagged response (method step 2)."""
        template = self._environment.get_template(f"analysis-{'guided' if guided else 'unguided'}.j2")
        context = template.new_context(_quoted(flagged))
        return [
            {"role": role, "content": "".join(template.blocks[role](context)).strip()} for role in ("system", "user")
        ]

    def correction_hint(self, flagged: FlaggedResponse, guidance: str) -> str:
        """The system text to request a corrected answer: the guidance and a description of the mistake."""
        template = self._environment.get_template("correction-guided.j2")
        return template.render(_quoted(flagged), guidance=guidance).strip()

    def category_analysis(self, flagged: FlaggedResponse) -> str:
        """An analysis without an analyst: the category's template with the reason, as an unguided critique.

        The same report always gets the same text. Its content selects one of the template's wordings.
        """
        kind = kind_of(flagged.category)
        text = self._environment.get_template(f"template-{kind}.j2").render(
            category=flagged.category.replace("-", " ").replace("_", " "),
            reason=reason_sentence(flagged.reason),
            wording=int(flagged.content_key()[-8:], 16),
        )
        return " ".join(text.split())


def fence(flagged: FlaggedResponse) -> str:
    """A marker that the text of the report cannot contain: that would need a fixed point of SHA-256."""
    return hashlib.sha256(flagged.encode()).hexdigest()[:16]


def clip(text: str, max_bytes: int) -> str:
    """The text, cut to `max_bytes` of UTF-8 in the middle: injected instructions are often at the end."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    half = (max_bytes - len(CUT)) // 2
    return encoded[:half].decode(errors="ignore") + CUT + encoded[-half:].decode(errors="ignore")


def reason_sentence(reason: str) -> str:
    """The user's reason as one short plain sentence; "" if it has too few words.

    A reason in the first or second person is quoted, or it would read like words of the assistant. Markup is removed,
    or the model would learn it. Words are counted in ASCII text only: Chinese or Thai has no spaces between words.
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
    conversation = "\n".join(f"{message.role}: {message.shown}" for message in flagged.messages)
    return {
        "fence": fence(flagged),
        "category": flagged.category,
        "conversation": clip(conversation, MAX_CONVERSATION_BYTES),
        "response": clip(flagged.shown_response, MAX_RESPONSE_BYTES),
        "reason": clip(flagged.reason or NO_REASON, MAX_REASON_BYTES),
    }
