"""Characters that a person does not see, written so that they are seen: U+202E becomes ⟨U+202E⟩.

Texts of users may turn the direction of what follows, hide words, or look like other texts. Only shown texts are
written so; stored ones stay as they are, and `hidden_again` gives back each text that `visible` has written.
"""

from __future__ import annotations

import regex

MAX_CODE = 0x10FFFF
_UNSEEN = r"[[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]--[\t\n\r]]"
"""U+2800 is a letter of Braille without dots."""
_PICTURE = r"[\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f]"
_EMOJI = rf"(?<={_PICTURE})\u200d(?=\p{{Extended_Pictographic}})|(?<=\p{{Emoji}})\ufe0f"
"""The unseen parts of an emoji: a joiner between two, and the sign for colours after one."""
_TO_SHOW = regex.compile(rf"(?P<emoji>{_EMOJI})|\r(?!\n)|{_UNSEEN}|⟨(?=U\+)", regex.V1)
_SHOWN = regex.compile(r"⟨U\+([0-9A-F]{4,6})⟩")
_CODED = regex.compile(rf"[\r⟨]|{_UNSEEN}", regex.V1)


def visible(text: str) -> str:
    """The text with every unseen character as its code. A text that already looks like a code gets one, too."""
    return _TO_SHOW.sub(lambda found: found[0] if found["emoji"] else f"⟨U+{ord(found[0]):04X}⟩", text)


def hidden_again(text: str) -> str:
    """The text that `visible` has written. Other codes stay."""
    return _SHOWN.sub(_character, text)


def _character(found: regex.Match[str]) -> str:
    code = int(found[1], 16)
    return chr(code) if code <= MAX_CODE and _CODED.fullmatch(chr(code)) else found[0]
