"""Finds personal data and secrets in a text: patterns, checked by well-kept libraries. No model, no network.

Numbers are taken only if they are valid: phone numbers by `phonenumbers`, IBAN, cards and national ids by `stdnum`
(check digits), keys and tokens by the detectors of `detect-secrets`. Names of people and streets are not found.

The work is bounded per report (`Budget`), and else in proportion to the text. What is beyond the bound is not checked
any more, it is taken for a number. A text with more than `MAX_PLACES` is refused.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from itertools import islice
from typing import Any, NamedTuple

import regex

from daemon.labels import PersonalData as Kind
from daemon.text.credentials import secret_places

MAX_TRIES = 400
"""Runs of digits that are tried as phone numbers, per report; each costs a millisecond."""
MAX_CHECKED = 5_000
"""Accounts, cards and national ids whose check digits are computed, per report."""
MAX_PLACES = 20_000
"""Places of one kind in a report. Each costs time when it is replaced."""
MAX_SECRETS = 500
"""Different secrets in one text; a text with more is taken for a list of them."""
MAX_COPY_WORK = 5 * 10**8
"""Characters that are read to find the copies of secrets."""
MIN_SECRET = 7

_PEM_START = regex.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----")
_NOT_PEM = regex.compile(r"[^A-Za-z0-9+/=\s\\,:.-]")
_PEM_END = regex.compile(r"-----END [A-Z ]{0,30}PRIVATE KEY-----")
MAX_PEM = 20_000
"""Characters between the first and the last line of a private key."""
_EMAIL = regex.compile(
    r"(?<![\w.+%-])[\p{L}\p{N}][\p{L}\p{N}_.+%-]{0,63}"
    r"@(?:[\p{L}\p{N}](?:[\p{L}\p{N}-]{0,61}[\p{L}\p{N}])?\.){1,8}\p{L}{2,24}(?![\p{L}\p{N}])"
)
_NUMBER = regex.compile(r"(?<![\p{L}\p{N}])[+(]{0,2}\d(?:[ \t\u00a0().\-/\u2010-\u2015]{0,3}\d){6,29}(?![\p{L}\p{N}])")
_SUBTRACTION = regex.compile(r"\d{1,4}\s*-\s*\d{1,4}")
_CARD = regex.compile(r"(?<![\p{L}\p{N}])[2-6](?:[ -]?\d){12,18}(?![\p{L}\p{N}])")
_IBAN = regex.compile(r"(?<![\p{L}\p{N}])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}", regex.IGNORECASE)
MIN_IBAN, MAX_IBAN = 15, 34
_ID_SIGNS = str.maketrans("", "", " -.+")
"""Signs that group the letters and digits of accounts and national ids."""
_COIN = regex.compile(r"\b(?:bc1[a-z0-9]{25,62}|[13][1-9A-HJ-NP-Za-km-z]{25,34}|0x[0-9a-fA-F]{40})\b")
_IP = regex.compile(r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f:]{2,39})(?![\w.]*[\w:])")
_WORDS = regex.compile(r"[A-Za-z0-9]+(?:_[A-Za-z]+)+")
_SOME = regex.compile(r"[\p{L}\p{N}]")
_NOT_DIGITS = regex.compile(r"\D+")
_LONG = regex.compile(r"[A-Za-z0-9_+/=-]{16,}")
_IDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "US": (("us.ssn", r"\d{3}-\d{2}-\d{4}"),),
    "GB": (("gb.nhs", r"\d{3}[ -]\d{3}[ -]\d{4}"),),
    "DE": (("de.idnr", r"\d{2} ?\d{3} ?\d{3} ?\d{3}"),),
    "FR": (("fr.nir", r"[12] ?\d\d ?\d\d ?[\dAB]\d ?\d{3} ?\d{3} ?\d\d"),),
    "IN": (("in_.aadhaar", r"\d{4} ?\d{4} ?\d{4}"), ("in_.pan", r"[A-Z]{5}\d{4}[A-Z]")),
    "ES": (("es.dni", r"\d{8}-?[A-Z]"), ("es.nie", r"[XYZ]-?\d{7}-?[A-Z]")),
    "IT": (("it.codicefiscale", r"[A-Z]{6}[0-9A-Z]{2}[A-Z][0-9A-Z]{2}[A-Z][0-9A-Z]{3}[A-Z]"),),
    "PL": (("pl.pesel", r"\d{11}"),),
    "NL": (("nl.bsn", r"\d{9}|\d{4}\.\d{2}\.\d{3}"),),
    "SE": (("se.personnummer", r"(?:\d\d)?\d{6}[-+]\d{4}"),),
    "CH": (("ch.ssn", r"756\.\d{4}\.\d{4}\.\d{2}"),),
    "BE": (("be.nn", r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}"),),
    "BR": (("br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}"),),
}
"""National ids by region: a module of `stdnum`, which knows the check digits, and how the id is written."""


class TooMuchError(Exception):
    """A report has more than `MAX_PLACES` of one kind."""


class Found(NamedTuple):
    """One place in a text. `value` is the same for all ways to write it."""

    kind: Kind
    start: int
    end: int
    value: str


@dataclass(slots=True)
class Budget:
    """What is left of the work for one report."""

    tries: int = MAX_TRIES
    checked: int = MAX_CHECKED

    def check(self) -> bool:
        self.checked -= 1
        return self.checked >= 0

    def try_phone(self) -> bool:
        self.tries -= 1
        return self.tries >= 0


Finder = Callable[[str, Budget], Iterator[Found]]


class Detector:
    """Finds the kinds that are switched on. `regions`: whose national phone numbers and ids are found."""

    def __init__(self, kinds: Sequence[Kind], regions: Sequence[str]) -> None:
        self._regions = tuple(regions)
        ids = (one for region in regions for one in _IDS.get(region, ()))
        self._ids = [
            (name, regex.compile(rf"(?<![\p{{L}}\p{{N}}-])(?:{shape})(?![\p{{L}}\p{{N}}-])", regex.IGNORECASE))
            for name, shape in ids
        ]
        finders: Mapping[Kind, Finder] = {
            Kind.IBAN: _ibans,
            Kind.COIN: _coins,
            Kind.SECRET: _secrets,
            Kind.EMAIL: _emails,
            Kind.CARD: _cards,
            Kind.ID: self._national_ids,
            Kind.PHONE: self._phones,
            Kind.IP: _addresses,
        }
        self._finders = [finder for kind, finder in finders.items() if kind in kinds]

    def find(self, text: str, budget: Budget | None = None) -> list[Found]:
        """In the order of the text. Where places overlap, the kind that is looked for first counts.

        The rest of the other one is a place of its own.

        Raises:
            TooMuchError: There are more than `MAX_PLACES` of one kind.
        """
        budget = budget or Budget()
        taken, places = bytearray(len(text)), []
        for finder in self._finders:
            found = list(islice(finder(text, budget), MAX_PLACES + 1))
            if len(found) > MAX_PLACES:
                raise TooMuchError
            for one in sorted(found, key=_by_start):
                for start, end in _free(taken, one):
                    is_whole = (start, end) == one[1:3]
                    if is_whole or _SOME.search(text, start, end):
                        taken[start:end] = b"\1" * (end - start)
                        places.append(one if is_whole else Found(one.kind, start, end, text[start:end]))
        return sorted(places, key=_by_start)

    def _phones(self, text: str, budget: Budget) -> Iterator[Found]:
        for place in _NUMBER.finditer(text):
            if _SUBTRACTION.fullmatch(place[0]):
                continue
            if not budget.try_phone():
                yield Found(Kind.PHONE, *place.span(), _NOT_DIGITS.sub("", place[0]))
                continue
            for start, end, value in _phones_of(place[0], self._regions):
                yield Found(Kind.PHONE, place.start() + start, place.start() + end, value)

    def _national_ids(self, text: str, budget: Budget) -> Iterator[Found]:
        for name, shape in self._ids:
            for place in shape.finditer(text):
                if not budget.check() or _is_valid(name, place[0]):
                    yield Found(Kind.ID, *place.span(), place[0].translate(_ID_SIGNS).upper())


def _free(taken: bytearray, one: Found) -> list[tuple[int, int]]:
    """The parts of a place that are not taken."""
    if taken.find(1, one.start, one.end) < 0:
        return [(one.start, one.end)]
    parts, at = [], taken.find(0, one.start, one.end)
    while at >= 0:
        end = taken.find(1, at, one.end)
        end = one.end if end < 0 else end
        parts.append((at, end))
        at = taken.find(0, end, one.end)
    return parts


def _by_start(one: Found) -> tuple[int, int]:
    return one.start, -one.end


def _secrets(text: str, _budget: Budget) -> Iterator[Found]:
    yield from _private_keys(text)
    places: dict[str, tuple[int, int]] = {}
    for start, end in secret_places(text):
        value = text[start:end]
        if len(value) >= MIN_SECRET and value not in places and not _WORDS.fullmatch(value):
            places[value] = start, end
    if len(places) > MAX_SECRETS:
        for place in _LONG.finditer(text):
            yield Found(Kind.SECRET, *place.span(), place[0])
        yield from (Found(Kind.SECRET, start, end, value) for value, (start, end) in places.items())
    for value in islice(places, MAX_COPY_WORK // len(text) if text else 0):
        start = text.find(value)
        while start >= 0:
            yield Found(Kind.SECRET, start, start + len(value), value)
            start = text.find(value, start + len(value))


def _private_keys(text: str) -> Iterator[Found]:
    ends = list(_PEM_END.finditer(text, overlapped=True)) if "-----END " in text else []
    done = 0
    for place in _PEM_START.finditer(text, overlapped=True) if ends else ():
        number = bisect_left(ends, place.end(), key=lambda end: int(end.start()))
        if place.start() < done or number == len(ends) or ends[number].start() - place.end() > MAX_PEM:
            continue
        end = ends[number].end()
        foreign = _NOT_PEM.search(text, place.end(), end)
        done = foreign.start() if foreign else end  # what begins before a foreign sign is no key
        if foreign is None:
            yield Found(Kind.SECRET, place.start(), end, text[place.start() : end])


def _ibans(text: str, budget: Budget) -> Iterator[Found]:
    for place in _IBAN.finditer(text):
        end = _iban_end(place[0]) if budget.check() else len(place[0])
        if end:
            value = place[0][:end].translate(_ID_SIGNS).upper()
            yield Found(Kind.IBAN, place.start(), place.start() + end, value)


def _iban_end(written: str) -> int:
    """Where the valid IBAN ends that this begins with; 0: none does. The pattern may run on into the next words."""
    ends = [position for position, character in enumerate(written, 1) if character not in " -"]
    compact = written.translate(_ID_SIGNS).casefold().upper()  # twice: the Kelvin sign is a capital K
    sizes = (size for size in _mod_97_sizes(compact[:MAX_IBAN]) if _is_valid("iban", compact[:size]))
    return max((ends[size - 1] for size in sizes), default=0)


def _mod_97_sizes(compact: str) -> Iterator[int]:
    """The lengths at which the start of this has the check digits of an IBAN."""
    head = "".join(str(int(one, 36)) for one in compact[:4])
    shift, first, rest = pow(10, len(head), 97), int(head), 0
    for size, one in enumerate(compact[4:], 5):
        value = int(one, 36)
        rest = (rest * (10 if value < 10 else 100) + value) % 97
        if size >= MIN_IBAN and (rest * shift + first) % 97 == 1:
            yield size


def _coins(text: str, budget: Budget) -> Iterator[Found]:
    for place in _COIN.finditer(text):
        if place[0].startswith("0x") or not budget.check() or _is_valid("bitcoin", place[0]):
            yield Found(Kind.COIN, *place.span(), place[0])


def _emails(text: str, _budget: Budget) -> Iterator[Found]:
    for place in _EMAIL.finditer(text) if "@" in text else ():
        yield Found(Kind.EMAIL, *place.span(), place[0].casefold())


def _cards(text: str, budget: Budget) -> Iterator[Found]:
    for place in _CARD.finditer(text):
        digits = _NOT_DIGITS.sub("", place[0])
        if len(set(digits)) > 1 and (not budget.check() or _is_valid("luhn", digits)):
            yield Found(Kind.CARD, *place.span(), digits)


def _addresses(text: str, _budget: Budget) -> Iterator[Found]:
    for place in _IP.finditer(text):
        if "." in place[0] or place[0].count(":") > 1:
            try:
                address = ipaddress.ip_address(place[0])
            except ValueError:
                continue
            yield Found(Kind.IP, *place.span(), str(address))


def _is_valid(name: str, written: str) -> bool:
    """By its check digits. What the module of `stdnum` cannot read, such as digits of two scripts, is taken for one."""
    try:
        return bool(_module(name).is_valid(written))
    except (ValueError, LookupError, TypeError, ArithmeticError):
        return True


@cache
def _module(name: str) -> Any:
    return import_module(f"stdnum.{name}")


@lru_cache(4096)
def _phones_of(text: str, regions: tuple[str, ...]) -> tuple[tuple[int, int, str], ...]:
    """Start, end and national digits of the phone numbers in a short run of digits."""
    from phonenumbers import Leniency, PhoneNumberMatcher  # noqa: PLC0415 - takes a while

    ways = [("ZZ", Leniency.VALID), *((region, Leniency.STRICT_GROUPING) for region in regions)]
    for region, leniency in ways:
        matcher = PhoneNumberMatcher(text, region, leniency=leniency, max_tries=5)
        found = tuple((match.start, match.end, str(match.number.national_number)) for match in matcher)
        if found:
            return found
    return ()
