"""Checks the content of a text before a model may learn it: one function for corrections of users, reviewers, analysts.

The checks look for what is foreign to the conversation: links, contacts, secrets, control tokens, instructions. They
cannot tell whether a statement is true. A false fact that looks plausible passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import regex

from connectors.messages import FlaggedResponse
from connectors.messages.shapes import is_blank
from daemon.labels import Fault
from daemon.text.contacts import new_contact, new_secret, visible
from daemon.text.rules import Rules, failures
from daemon.text.steering import control_tokens, instructions
from daemon.text.words import normalised

MAX_CHARACTERS = 32_000
"""Default of `reflection.max_correction_characters`."""
MAX_CACHED_CHARACTERS = 20_000
_SHOWN = 60

_SIGNIFICANT = regex.compile(r"[-+]?\d+(?:[.,:/]\d+)*|[\p{L}\p{M}\p{N}]+|[+<>=$€£¥%^/&@]")
"""What may change the meaning of an answer; other punctuation does not."""
_LOOKALIKES = str.maketrans("аеорсухіјѕԁкмнтвαορεικτυχ", "aeopcyxijsdkmhtbaopeiktyx")
_POLITE = """
    sure certainly absolutely course hope helps help let know questions question feel free ask thank thanks please
    note sorry apologise apologize apologies glad happy assist anything else further great welcome wonderful best
    regards here answer response corrected updated day further assistance
    natürlich gerne hoffe hilft fragen danke bitte antwort
    bien sûr espère aide voici réponse merci
    claro supuesto espero ayude aquí tienes respuesta gracias ajude aqui resposta obrigado obrigada
    certo spero aiuti ecco risposta grazie natuurlijk hoop helpt antwoord bedankt"""
_POLITE_WORDS = frozenset(_POLITE.split())
_FILLING = """
    a am an and any are be can do for have i if in is it me my of other the that there this to with you your
    das dies dir du es hier ich ihnen ist mir mich sie und wenn weitere que cela ça vous la le les si des de
    esto te le a e o isso você questo ti dit u je het er"""
_FILLERS = frozenset(_FILLING.split())


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a text; `sentence` completes "it is not used: ..."."""

    fault: Fault
    sentence: str


def correction_fault(
    text: str,
    flagged: FlaggedResponse,
    *,
    rules: Rules | None,
    max_characters: int = MAX_CHARACTERS,
    timeout_s: float | None = None,
) -> Finding | None:
    """The first reason not to train on a proposed answer to the conversation of `flagged`, or None.

    `rules` are those of its reports; `timeout_s` as for `failures`.
    """
    if is_blank(visible(text)):
        return Finding(Fault.BLANK, "it is blank")
    if len(text) > max_characters:
        return Finding(Fault.LENGTH, f"it has {len(text)} characters, more than {max_characters}")
    if (finding := _repeats(text, flagged.response, rules, timeout_s)) is not None:
        return finding
    if (finding := content_fault(text, flagged)) is not None:
        return finding
    broken = failures(rules, text, timeout_s=timeout_s) if rules is not None else []
    return Finding(Fault.FAILS_CHECKS, f"it fails a check of the report: {broken[0]}") if broken else None


def content_fault(text: str, flagged: FlaggedResponse) -> Finding | None:
    """The first fault in the content of a text about the conversation of `flagged`, or None.

    Only the conversation is a source of links and contacts. The flagged answer is none: it may hold what must not be
    repeated.
    """
    conversation = "\n".join(message.shown for message in flagged.messages)
    cached = len(text) + len(conversation) <= MAX_CACHED_CHARACTERS
    return (_content_fault if cached else _content_fault.__wrapped__)(text, conversation)


@lru_cache(maxsize=256)
def _content_fault(text: str, conversation: str) -> Finding | None:
    return next(_content_faults(text, conversation), None)


def _content_faults(text: str, conversation: str) -> Iterator[Finding]:
    if (token := control_tokens(text)) is not None:
        yield Finding(Fault.CONTROL_TOKENS, f"it has a control token or a turn of a role: {token[:_SHOWN]!r}")
    if (contact := new_contact(text, conversation)) is not None:
        yield Finding(
            Fault.NEW_CONTACT, f"it has a link or contact that is not in the conversation: {contact[:_SHOWN]!r}"
        )
    if (secret := new_secret(text, conversation)) is not None:
        yield Finding(Fault.SECRET, f"it has a secret that is not in the conversation: {secret!r}")
    if (order := instructions(text, conversation)) is not None:
        yield Finding(Fault.INSTRUCTIONS, f"it has an instruction for a model: {order[:_SHOWN]!r}")


def _repeats(text: str, answer: str, rules: Rules | None, timeout_s: float | None) -> Finding | None:
    """The fault if the text is the flagged answer, or nearly.

    White space, punctuation, case, look-alike letters and polite phrases around it make no other answer. But they may
    be the very mistake, as in a wrong format: then the checks tell the two apart.
    """
    if visible(text).strip() == visible(answer).strip():
        return Finding(Fault.FLAGGED_ANSWER, "it is the flagged answer")
    own, old = _significant(text), _significant(answer)
    if not old or not (own == old or _only_politer(own, old)):
        return None
    told_apart = (
        rules is not None
        and bool(failures(rules, answer, timeout_s=timeout_s))
        and not failures(rules, text, timeout_s=timeout_s)
    )
    return (
        None if told_apart else Finding(Fault.FLAGGED_ANSWER, "it differs from the flagged answer in nothing but form")
    )


def _significant(text: str) -> list[str]:
    found = _SIGNIFICANT.findall(normalised(visible(text)))
    return [one.translate(_LOOKALIKES) for one in found]


def _only_politer(own: list[str], old: list[str]) -> bool:
    """Whether `own` is `old`, several times or with polite phrases around it."""
    rest: list[str] = []
    at = found = 0
    while at < len(own):
        if own[at] == old[0] and own[at : at + len(old)] == old:
            at, found = at + len(old), found + 1
        else:
            rest.append(own[at])
            at += 1
    added = set(rest)
    return found > 0 and (not added or (bool(added & _POLITE_WORDS) and added <= _POLITE_WORDS | _FILLERS))
