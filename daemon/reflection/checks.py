"""Checks of the analyst's texts: pure functions that return the fault, or None.

Even a strong model writes at least a fifth of its critiques wrong (arXiv 2501.17703), and most critiques of a small
model are useless. So unchecked texts are never used for training. The checks limit the damage; they cannot prove that
an analysis is correct.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import regex

from connectors.messages import FlaggedResponse
from daemon.categories import REFUSAL_IS_RIGHT, Kind, kind_of
from daemon.config.reflection import ReflectionConfig
from daemon.errors import AnalysisRejectedError
from daemon.labels import Check, Fault
from daemon.text.content import MAX_CHARACTERS, Finding, content_fault
from daemon.text.content import correction_fault as fault_of_any
from daemon.text.refusal import _QUOTATION, refusal
from daemon.text.rules import Rules
from daemon.text.soundness import SENTENCE_END, is_analysis_talk, repeats_itself
from daemon.text.words import _UNSPACED_RUN, NGRAM_WORDS, letter_share, normalised, overlap, stems, words

MIN_LETTER_SHARE = 0.6
"""Minimum share of letters and digits among the visible characters. Below it, the text is markup or noise."""
MAX_ECHO = 0.8
"""Maximum share of word 5-grams that an analysis may share with one text of its prompt."""
REASON_SHARE = 0.2
MAX_REASON_HITS = 3
MIN_KIND_HITS = 2
"""An analysis must contain a fifth of the reason's content words (1 to 3 words), or two typical words of its kind."""
MAX_GUIDANCE_OVERLAP = 0.5


_NO_SENTENCE_MARKS = regex.compile(r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_HINT = regex.compile(r"\bflagged\b|\bmay be (?:wrong|harmful|unethical|offensive)\b|\bharmful, unethical\b")
_APPROVAL = regex.compile(
    r"""\b(?:this|the|that|my|your|its|assistant's)\s(?:answer|response|reply)\s
        (?:is|was|seems|appears|looks)\s(?:\w+ly\s|very\s|quite\s|both\s|to\sbe\s)*
        (?:correct|right|acceptable|appropriate|accurate|valid|reasonable|harmless|safe)\b
      | \bnothing\s(?:is\s)?wrong\b
      | \b(?:answer|response|reply)\sis\snot\s(?:wrong|incorrect|harmful|bad)\b""",
    regex.VERBOSE,
)
_CONTRAST = regex.compile(r"\b(?:but|however|although|though|while|yet|only|except|wrong|not)\b")

_KIND_WORDS: Mapping[Kind, str] = {
    Kind.PROMPT_INJECTION: "inject hidden command instruction hijack override data obey ignore task manipulate",
    Kind.SECRET_LEAK: "secret reveal disclose leak confidential password private expose code hidden protect",
    Kind.HARMFUL: "harm danger unethical illegal unsafe offensive violence hurt hate safety",
    Kind.WRONG_FACT: "incorrect false fact factual inaccurate untrue correct true truth mislead",
    Kind.FORMAT: "format instruction form structure length json requirement follow wording",
    Kind.REFUSAL: "refuse refusal decline harmless safe help unnecessary reject",
    Kind.STYLE: "style tone polite rude verbose clear wording language grammar",
    Kind.DEFAULT: "",
}


def check_analysis(analysis: str, flagged: FlaggedResponse, *, limits: ReflectionConfig, instructions: str) -> None:
    """Check an analysis of `flagged`. `instructions` is the system prompt of the analyst.

    Raises:
        AnalysisRejectedError: if a check fails; it has the first failed `Check` and the fault.
    """
    for check, fault in _faults(analysis, flagged, limits, instructions):
        if fault is not None:
            raise AnalysisRejectedError(check, fault)


def _faults(
    analysis: str, flagged: FlaggedResponse, limits: ReflectionConfig, instructions: str
) -> Iterator[tuple[Check, str | None]]:
    yield Check.PARSES, unreadable(analysis)
    yield Check.NO_REFUSAL, refusal(analysis)
    yield Check.LENGTH, wrong_length(analysis, limits.min_words, limits.max_words)
    yield Check.NO_ECHO, echo(analysis, [instructions, *(message.text for message in flagged.messages)])
    yield Check.NO_HINT, hint(analysis)
    yield Check.NO_PARROTING, parroting(analysis, flagged.response, limits.max_overlap)
    yield Check.OWN_WORDS, reporters_words(analysis, flagged.complaint or "", limits.max_overlap)
    found = content_fault(analysis, flagged)
    yield Check.CONTENT, None if found is None else found.sentence
    yield Check.NO_APPROVAL, approval(analysis)
    yield Check.NAMES_REASON, missed_reason(analysis, flagged.reason, flagged.category or "")


def correction_fault(
    text: str,
    flagged: FlaggedResponse,
    *,
    rules: Rules | None,
    truncated: bool,
    guidance: str,
    max_characters: int = MAX_CHARACTERS,
) -> Finding | None:
    """The reason not to train on an analyst's proposal, or None: the checks of any correction, and further ones."""
    found = fault_of_any(text, flagged, rules=rules, max_characters=max_characters)
    fault = None if found is not None else next(_no_answer(text, flagged, truncated, guidance), None)
    return found if fault is None else Finding(Fault.NO_ANSWER, fault)


def _no_answer(text: str, flagged: FlaggedResponse, truncated: bool, guidance: str) -> Iterator[str]:  # noqa: FBT001
    if truncated:
        yield "it was cut off at the token limit"
    if not words(text) or repeats_itself(text):
        yield "it is empty or repeats itself"
    if kind_of(flagged.category) not in REFUSAL_IS_RIGHT and refusal(text):
        yield "it is a refusal"
    if is_analysis_talk(text):
        yield "it talks about an answer instead of giving one"
    if overlap(text, guidance) > MAX_GUIDANCE_OVERLAP:
        yield "it repeats the guidance"


def whole_sentences(text: str, *, truncated: bool) -> str:
    """The text on one line. If it was cut off at the token limit, only its complete sentences."""
    line = " ".join(text.split())
    if not truncated:
        return line
    ends = [match.end() for match in SENTENCE_END.finditer(line)]
    return line[: ends[-1]] if ends else ""


def hint(analysis: str) -> str | None:
    """The fault if the text repeats the hint of its prompt. Training must not see the hint (method step 3)."""
    found = _HINT.search(normalised(analysis))
    return None if found is None else f'it repeats the hint: "{found[0]}"'


def unreadable(text: str) -> str | None:
    """The fault if the text is empty, noise, a loop, or has no sentence."""
    if not text.split():
        return "it is empty, or was cut off before its first sentence ended"
    if letter_share(text) < MIN_LETTER_SHARE or "\N{REPLACEMENT CHARACTER}" in text:
        return "it is mostly signs, not words"
    if not SENTENCE_END.search(text) and not _NO_SENTENCE_MARKS.search(text):
        return "it has no complete sentence"
    return "it repeats itself" if repeats_itself(text) else None


def wrong_length(text: str, min_words: int, max_words: int) -> str | None:
    """The fault if the text is too short or too long. In scripts without spaces, a character is half a word."""
    found = words(text)
    unspaced = sum(len(run) for run in _UNSPACED_RUN.findall(text))
    count = len(found) - unspaced + math.ceil(unspaced / 2)
    return None if min_words <= count <= max_words else f"it has {count} words; {min_words} to {max_words} are required"


def echo(text: str, prompts: Sequence[str]) -> str | None:
    """The fault if the text repeats a text of its own prompt."""
    echoed = any(normalised(text) == normalised(prompt) or overlap(text, prompt) > MAX_ECHO for prompt in prompts)
    return "it repeats its own prompt" if echoed else None


def parroting(text: str, bad: str, max_overlap: float) -> str | None:
    """The fault if the text mostly copies the flagged response: training on it would teach the mistake."""
    share = overlap(text, bad)
    return f"{share:.0%} of its word 5-grams come from the flagged response" if share > max_overlap else None


def reporters_words(text: str, complaint: str, max_overlap: float) -> str | None:
    """The fault if the text repeats the user's words: a user's claim would be taught as the model's verdict."""
    lines = [line for line in complaint.splitlines() if len(words(line)) > NGRAM_WORDS]
    share = max((max(overlap(text, line), overlap(line, text)) for line in lines), default=0.0)
    return (
        f"it shares {share:.0%} of its word 5-grams with the reporter's reason or next message"
        if share > max_overlap
        else None
    )


def approval(text: str) -> str | None:
    """The fault if a sentence approves of the flagged answer without a restriction. English only."""
    own = normalised(_QUOTATION.sub(" ", text))
    for sentence in SENTENCE_END.split(own):
        if (found := _APPROVAL.search(sentence)) and not _CONTRAST.search(_APPROVAL.sub(" ", sentence)):
            return f'it approves of the flagged response: "{found[0]}"'
    return None


def missed_reason(text: str, reason: str, category: str) -> str | None:
    """The fault if the text is not about the reported mistake.

    Typical words of the category's kind also count: the reason may have no content words ("bad!"), or be in another
    language. Without a reason, an analysis of an unknown kind has nothing to name.
    """
    found = stems(text)
    named = stems(reason) | stems(category.replace("-", " ").replace("_", " "))
    typical = stems(_KIND_WORDS[kind_of(category)])
    needed = min(max(1, math.ceil(REASON_SHARE * len(stems(reason)))), MAX_REASON_HITS)
    if not stems(reason) and not typical:
        return None
    if not named or len(found & named) >= needed or len(found & typical) >= MIN_KIND_HITS:
        return None
    return f"it names {len(found & named)} of the words of the flagged reason; {needed} are required"
