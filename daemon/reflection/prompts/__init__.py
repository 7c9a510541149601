"""Versioned prompt templates: questions for the analyst, and fixed analyses for use without an analyst.

Each version is a folder of Jinja2 files. A released version never changes, because lessons refer to their template.
The texts of a report are template values, never template source. In a prompt they are quoted between two fence lines.
The fence is derived from the SHA-256 of the report, so a flagged text cannot close the quotation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from connectors.messages import FlaggedResponse
from daemon.categories import Kind, kind_of
from daemon.errors import ConfigError
from daemon.text.content import content_fault

MAX_CONVERSATION_BYTES = 2600
MAX_RESPONSE_BYTES = 1600
MAX_REASON_BYTES = 600
MAX_FOLLOW_UP_BYTES = 400
MAX_FAILED_BYTES = 400
MAX_CORRECTION_BYTES = 600
MAX_JUDGED_BYTES = 400
"""Limits of the quoted texts: about 1,550 English tokens together, so question and analysis fit into 2,048."""
CUT = " [...] "
NO_REASON = "(no reason was given)"
UNNAMED = "unnamed"
KINDS: Mapping[Kind, str] = {
    Kind.PROMPT_INJECTION: "it obeys an order inside a text that it should only work on",
    Kind.SECRET_LEAK: "it tells something that it was to keep secret",
    Kind.HARMFUL: "it helps with, or says, something harmful",
    Kind.WRONG_FACT: "something that it states is not true",
    Kind.FORMAT: "it has another form, length or content than the instructions demand",
    Kind.REFUSAL: "it declines a harmless request",
    Kind.STYLE: "its tone, wording or language does not suit",
    Kind.DEFAULT: "anything else",
}
"""The kinds that an analyst chooses from."""

_ROOT = Path(__file__).parent


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

    def analysis(
        self,
        flagged: FlaggedResponse,
        *,
        guided: bool,
        failed: Sequence[str] = (),
        correction: str | None = None,
        judged: str | None = None,
    ) -> list[dict[str, str]]:
        """The messages that request an analysis of the flagged response (method step 2).

        If `guided`, they show what is known: the reason, the user's next message, the `failed` checks, one line each,
        a `correction` that somebody stands behind, and a judge's words.
        """
        known = _known(flagged, failed, correction, judged)
        return self._messages(f"analysis-{'guided' if guided else 'unguided'}.j2", known)

    def kind(self, flagged: FlaggedResponse, *, failed: Sequence[str] = ()) -> list[dict[str, str]]:
        """The messages that ask for the kind of the fault."""
        kinds = [(kind.value, text) for kind, text in KINDS.items()]
        return self._messages("kind.j2", {**_known(flagged, failed, None), "kinds": kinds})

    def preference(self, flagged: FlaggedResponse, first: str, second: str) -> list[dict[str, str]]:
        """The messages that ask which of two answers to the conversation is better."""
        texts = {name: clip(text, MAX_RESPONSE_BYTES) for name, text in (("first", first), ("second", second))}
        return self._messages("preference.j2", {**_quoted(flagged), **texts})

    def correction_hint(self, flagged: FlaggedResponse, guidance: str) -> str:
        """The system text to request a corrected answer: the guidance and a description of the mistake."""
        template = self._environment.get_template("correction-guided.j2")
        return template.render(_quoted(flagged), guidance=guidance).strip()

    def category_analysis(self, flagged: FlaggedResponse) -> str:
        """An analysis without an analyst: the category's template, as an unguided critique.

        The same report always gets the same text. Its content selects one of the template's wordings. No word of the
        reporter is in it: the model would learn a claim of a user as its own verdict. An unknown category is named
        only if its text passes the content checks.
        """
        kind = kind_of(flagged.category)
        category = (flagged.category or UNNAMED).replace("-", " ").replace("_", " ")
        text = self._environment.get_template(f"template-{kind}.j2").render(
            category=category if content_fault(category, flagged) is None else UNNAMED,
            wording=int(flagged.content_key()[-8:], 16),
        )
        return " ".join(text.split())

    def _messages(self, name: str, values: Mapping[str, object]) -> list[dict[str, str]]:
        template = self._environment.get_template(name)
        context = template.new_context(dict(values))
        return [
            {"role": role, "content": "".join(template.blocks[role](context)).strip()} for role in ("system", "user")
        ]


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


def _quoted(flagged: FlaggedResponse) -> dict[str, str]:
    conversation = "\n".join(f"{message.role}: {message.shown}" for message in flagged.messages)
    return {
        "fence": fence(flagged),
        "category": flagged.category or UNNAMED,
        "conversation": clip(conversation, MAX_CONVERSATION_BYTES),
        "response": clip(flagged.shown_response, MAX_RESPONSE_BYTES),
        "reason": clip(flagged.complaint or NO_REASON, MAX_REASON_BYTES),
    }


def _known(
    flagged: FlaggedResponse, failed: Sequence[str], correction: str | None, judged: str | None = None
) -> dict[str, object]:
    """What is quoted, each only where there is something: the templates leave out an empty text."""
    known = {
        "category": flagged.category or "",
        "reason": clip(flagged.reason, MAX_REASON_BYTES),
        "follow_up": clip(flagged.follow_up or "", MAX_FOLLOW_UP_BYTES),
        "failed": clip("\n".join(failed), MAX_FAILED_BYTES),
        "correction": clip(correction or "", MAX_CORRECTION_BYTES),
        "judged": clip(judged or "", MAX_JUDGED_BYTES),
    }
    return {**_quoted(flagged), **known, "is_explained": any(known.values())}
