"""Replaces personal data and secrets of a report by placeholders, before it is stored, logged, sent on or trained on.

The same value gets the same placeholder everywhere in one report, so that checks, correction and answer still fit
together; in another report it may get another number. A reporter or tenant that is an e-mail address or a number
becomes a keyed pseudonym, the same in all reports: limits per reporter hold.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import regex
from pydantic import ValidationError

from connectors.checker.client import ask
from connectors.messages import FlaggedResponse
from daemon import metrics
from daemon.config import Config
from daemon.labels import PersonalData as Kind
from daemon.privacy.detect import MAX_PLACES, Budget, Detector, Found, TooMuchError
from daemon.privacy.keys import Keys, Purpose
from daemon.text.contacts import PLACEHOLDER

CONVERSATION = ("messages", "response", "tool_calls")
REST = ("correction", "reason", "follow_up", "metadata")
"""The conversation is numbered first: two reports of one answer get the same placeholders in it."""
PSEUDONYM_DIGITS = 20
MAX_TRIED = 10
"""Redacted values that a pattern of the checks is tried on."""
TOO_MUCH = (
    f"holds more than {MAX_PLACES} pieces of personal data, or numbers that could be, of one kind, or in a rule that "
    "is invalid without it (privacy.redact); send less of it"
)
"""Why a report with `Redacted.too_much` is refused, as the end of a sentence."""
TRIED_S = 0.2
"""CPU seconds for that. A pattern that takes longer is left out."""
_APART = "\n\0\n"
"""Between texts that are searched together: no pattern reads over it."""
MIN_PART = 4
"""Characters of a check that is taken for a part of a redacted value."""
SEARCHED_CHARACTERS = 32_768
"""Reports of up to this length together are searched at once, and one by one only where something is found."""
_TORN = regex.compile(r"<[A-Z]{0,8}_?\d{0,6}\Z")
"""A placeholder without its end."""
_ESCAPE = regex.compile(r"\\(?=[^\w\s])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redacted:
    """A report without personal data.

    `fingerprint` is kept with it. `known_as` are the fingerprints of the same message, also before redaction and under
    another configuration: a redelivery is never a conflict.
    """

    flagged: FlaggedResponse
    document: Mapping[str, Any]
    """The report as it is stored."""
    fingerprint: str
    known_as: frozenset[str]
    counts: Mapping[Kind, int] = field(default_factory=dict)
    sealed: bytes | None = None
    """The original, encrypted, if it is kept."""
    too_much: bool = False
    """It holds too much personal data to be redacted: it must not be stored."""


def as_it_is(flagged: FlaggedResponse) -> Redacted:
    """Without redaction."""
    plain = flagged.fingerprint()
    return Redacted(flagged=flagged, document=_document(flagged), fingerprint=plain, known_as=frozenset({plain}))


class Redactor:
    """Redacts reports and dead letters by section `privacy`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        privacy = config.privacy
        self._detector = Detector(privacy.redact.kinds, privacy.redact.regions)

    @cached_property
    def _keys(self) -> Keys:
        return Keys.of(self._config)  # at its first use: a command that only reads makes no key

    @cached_property
    def _fingerprint_key(self) -> bytes:
        return self._keys.key(Purpose.FINGERPRINT)

    def redact_all(self, messages: Sequence[FlaggedResponse]) -> list[Redacted]:
        """In this order. Raises ConfigError if the key is needed and unusable."""
        documents = [_document(one) for one in messages]
        suspects = self._suspects(documents)
        return [
            self._redacted(one, document) if number in suspects else self._untouched(one, document)
            for number, (one, document) in enumerate(zip(messages, documents, strict=True))
        ]

    def redact(self, flagged: FlaggedResponse) -> Redacted:
        """Raises ConfigError if the key is needed and unusable."""
        return self.redact_all([flagged])[0]

    def _suspects(self, documents: Sequence[Mapping[str, Any]]) -> set[int]:
        """The numbers of the reports in which something may be found."""
        suspects: set[int] = set()
        for numbers, texts in _parts(documents):
            ends = list(accumulate(len(text) + len(_APART) for text in texts))
            try:
                places = self._detector.find(_APART.join(texts))
            except TooMuchError:
                suspects.update(numbers)
            else:
                suspects.update(numbers[bisect_right(ends, place.start)] for place in places)
        return suspects

    def _untouched(self, flagged: FlaggedResponse, document: Mapping[str, Any]) -> Redacted:
        plain = flagged.fingerprint()
        known = frozenset({plain, self._keyed(plain)})
        return Redacted(flagged=flagged, document=document, fingerprint=plain, known_as=known)

    def _redacted(self, flagged: FlaggedResponse, document: Mapping[str, Any]) -> Redacted:
        plain = flagged.fingerprint()
        clean, counts = self._replaced(document)
        if clean is None:
            known = frozenset({plain, self._keyed(plain)})
            return Redacted(
                flagged=flagged, document=document, fingerprint=self._keyed(plain), known_as=known, too_much=True
            )
        if not counts:
            return self._untouched(flagged, document)
        for kind, count in counts.items():
            metrics.REDACTED.labels(kind=kind).inc(count)
        return Redacted(
            flagged=clean,
            document=_document(clean),
            fingerprint=self._keyed(plain),
            known_as=frozenset({plain, self._keyed(plain), clean.fingerprint()}),
            counts=counts,
            sealed=self._sealed(flagged) if self._config.privacy.keep_original else None,
        )

    def _sealed(self, flagged: FlaggedResponse) -> bytes:
        from daemon.privacy.sealed import seal  # noqa: PLC0415 - commands that only read need no cryptography

        return seal(flagged.encode(), flagged.id, self._keys)

    def _replaced(self, document: Mapping[str, Any]) -> tuple[FlaggedResponse | None, Mapping[Kind, int]]:
        """The report with placeholders, and their number; None: it holds too much."""
        values = {name: one for name, one in document.items() if name != "not_trainable"}
        names = _Names(self._detector, values)
        try:
            return _validated(self._changed(values, names)), names.counts
        except TooMuchError:
            return None, names.counts

    def clean(self, flagged: FlaggedResponse) -> FlaggedResponse:
        """The report as `redact` would have it stored; unchanged if it would not be. Nothing is counted or kept."""
        clean, counts = self._replaced(_document(flagged))
        return clean if clean is not None and counts else flagged

    def letter(self, value: bytes) -> bytes:
        """A message that was refused, as JSON or as text. Unchanged if nothing is found.

        Raises:
            TooMuchError: It holds too much personal data.
        """
        names = _Names(self._detector, {})
        text = value.decode("utf-8", "surrogateescape")
        with suppress(ValueError, RecursionError):
            document = json.loads(text)
            names.read(document)
            clean = _walk(document, names.replaced, keys=True)
            return json.dumps(clean, ensure_ascii=False).encode("utf-8", "surrogatepass") if names.counts else value
        clean_text = names.replaced(text)
        return clean_text.encode("utf-8", "surrogateescape") if names.counts else value

    def text(self, text: str) -> str:
        return _Names(self._detector, {}).replaced(text)

    def _changed(self, values: dict[str, Any], names: _Names) -> dict[str, Any]:
        changed = dict(values)
        names.read([values[name] for name in (*CONVERSATION, *REST, "checks") if name in values])
        for name in (*CONVERSATION, *REST):
            if name in values:
                changed[name] = _walk(values[name], names.replaced, keys=name == "metadata")
        for name in ("reporter", "tenant"):
            if name in values:
                changed[name] = self._pseudonym(values[name], names)
        if "checks" in values:
            changed["checks"] = _checks(values["checks"], names, _swallowed(values, changed))
        return changed

    def _pseudonym(self, name: str, names: _Names) -> str:
        if not self._detector.find(name):
            return name
        names.counts[Kind.EMAIL if "@" in name else Kind.ID] += 1
        digest = hmac.new(self._keys.key(Purpose.PSEUDONYM), name.strip().casefold().encode(), hashlib.sha256)
        return f"person-{digest.hexdigest()[:PSEUDONYM_DIGITS]}"

    def _keyed(self, fingerprint: str) -> str:
        """A hash of a text with one unknown number can be guessed; one with a key cannot."""
        return hmac.digest(self._fingerprint_key, fingerprint.encode(), "sha256").hex()


def _document(flagged: FlaggedResponse) -> dict[str, Any]:
    return flagged.model_dump(mode="json", exclude_none=True)


def _parts(documents: Sequence[Mapping[str, Any]]) -> Iterator[tuple[list[int], list[str]]]:
    """Texts in which something may stand, with the number of the report of each: together up to SEARCHED_CHARACTERS."""
    numbers: list[int] = []
    texts: list[str] = []
    size = 0
    for number, document in enumerate(documents):
        found = _searched(document)
        length = sum(map(len, found))
        if texts and size + length > SEARCHED_CHARACTERS:
            yield numbers, texts
            numbers, texts, size = [], [], 0
        numbers += [number] * len(found)
        texts += found
        size += length
    if texts:
        yield numbers, texts


def _searched(document: Mapping[str, Any]) -> list[str]:
    """All texts that `Redactor._changed` looks at."""
    given = [document[name] for name in (*CONVERSATION, *REST, "checks", "reporter", "tenant") if name in document]
    pattern = document.get("checks", {}).get("regex")
    return _texts(given if pattern is None else [*given, _ESCAPE.sub("", pattern)])


def _validated(changed: dict[str, Any]) -> FlaggedResponse:
    """The report. A placeholder may be longer than its value: a field that is too long now is cut before one.

    Raises:
        TooMuchError: It is beyond another bound now.
    """
    try:
        return FlaggedResponse.model_validate(changed)
    except ValidationError as exc:
        too_long = {
            str(one["loc"][0]): int(one["ctx"]["max_length"])
            for one in exc.errors()
            if one["type"] in {"string_too_long", "too_long"} and isinstance(changed.get(str(one["loc"][0])), str)
        }
    cut = {name: _TORN.sub("", changed[name][:most]) for name, most in too_long.items()}
    try:
        return FlaggedResponse.model_validate({**changed, **cut})
    except ValidationError:
        raise TooMuchError from None


class _Names:
    """The placeholders of one report."""

    def __init__(self, detector: Detector, values: Mapping[str, Any]) -> None:
        self._detector = detector
        self._known: dict[tuple[Kind, str], str] = {}
        self._numbers: Counter[str] = Counter()
        self._budget = Budget()
        self._found: dict[str, list[Found]] = {}
        self.written: dict[str, str] = {}
        """The placeholder of each value as it was written."""
        self.counts: Counter[Kind] = Counter()
        for text in _texts(values):  # the report may hold placeholders of its own
            for found in PLACEHOLDER.finditer(text):
                self._numbers[found["kind"]] = max(self._numbers[found["kind"]], int(found["number"]))

    def read(self, value: Any) -> None:
        """Search all texts of a value at once: a search costs far more than a short text."""
        texts = list(dict.fromkeys(_texts(value)))
        places = iter(self._detector.find(_APART.join(texts), self._budget))
        place, start = next(places, None), 0
        for text in texts:
            self._found[text] = []
            while place is not None and place.end <= start + len(text):
                self._found[text].append(place._replace(start=place.start - start, end=place.end - start))
                place = next(places, None)
            start += len(text) + len(_APART)

    def replaced(self, text: str) -> str:
        parts, end = [], 0
        found_before = self._found.get(text)
        for found in self._detector.find(text, self._budget) if found_before is None else found_before:
            written = text[found.start : found.end]
            name = self._name(found.kind, found.value)
            self.written[written] = name
            self.counts[found.kind] += 1
            parts += [text[end : found.start], name]
            end = found.end
        return "".join((*parts, text[end:])) if parts else text

    def part_of(self, text: str) -> str | None:
        """The placeholder of the first value that holds this text."""
        joined, ends, names = self._folded
        at = joined.find(text.casefold())
        return names[bisect_right(ends, at)] if at >= 0 else None

    @cached_property
    def _folded(self) -> tuple[str, list[int], list[str]]:
        """The values as one text, where each of them ends, and their placeholders; made when all values are known."""
        folded = [written.casefold() for written in self.written]
        ends = list(accumulate(len(written) + len(_APART) for written in folded))
        return _APART.join(folded), ends, list(self.written.values())

    def _name(self, kind: Kind, value: str) -> str:
        name = self._known.get((kind, value))
        if name is None:
            self._numbers[kind.name] += 1
            name = self._known[kind, value] = f"<{kind.name}_{self._numbers[kind.name]}>"
        return name


def _walk(value: Any, change: Callable[[str], str], *, keys: bool) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_walk(item, change, keys=keys) for item in value]
    if isinstance(value, dict):
        return {
            (change(key) if keys else key): item if key == "role" else _walk(item, change, keys=keys)
            for key, item in value.items()
        }
    return value


def _texts(value: Any) -> list[str]:
    found: list[str] = []
    _gather(value, found)
    return found


def _gather(value: Any, found: list[str]) -> None:
    """The texts that `_walk` would change, and all keys."""
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, list):
        for item in value:
            _gather(item, found)
    elif isinstance(value, dict):
        found.extend(value)
        for key, item in value.items():
            if key != "role":
                _gather(item, found)


def _swallowed(values: Mapping[str, Any], changed: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a text stood in the report and stands there no more."""
    before, after = (
        "\n".join(_texts([one[name] for name in (*CONVERSATION, "correction") if name in one])).casefold()
        for one in (values, changed)
    )
    return lambda text: text.casefold() in before and text.casefold() not in after


def _checks(checks: Mapping[str, Any], names: _Names, swallowed: Callable[[str], bool]) -> dict[str, Any]:
    """The rules with placeholders. A pattern that is about a redacted value is left out: nothing could meet it."""
    changed = {name: _walk(item, names.replaced, keys=False) for name, item in checks.items() if name != "regex"}
    for name in ("must_contain", "must_not_contain"):
        changed[name] = [
            part if len(text) >= MIN_PART and (part := names.part_of(text)) and swallowed(text) else text
            for text in changed.get(name, [])
        ]
    pattern = checks.get("regex")
    if pattern is not None and not _is_about(pattern, names):
        changed["regex"] = pattern
    return changed


def _is_about(pattern: str, names: _Names) -> bool:
    if names.replaced(_ESCAPE.sub("", pattern)) != _ESCAPE.sub("", pattern):
        return True
    left_s = TRIED_S
    for written in list(names.written.items())[:MAX_TRIED]:
        verdicts = [ask("search", timeout_s=left_s, pattern=pattern, text=text) for text in written]
        left_s -= sum(verdict.cpu_s for verdict in verdicts)
        met, missed = (verdict.fault is None for verdict in verdicts)
        if left_s <= 0 or any(verdict.undecided for verdict in verdicts) or (met and not missed):
            return True
    return False
