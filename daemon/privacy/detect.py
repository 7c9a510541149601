"""Finds personal data and secrets in a text: patterns, checked by well-kept libraries. No model, no network.

Numbers are taken only if they are valid: phone numbers by `phonenumbers`, IBAN, cards and national ids by `stdnum`
(check digits), keys and tokens by the detectors of `detect-secrets`. Names of people and streets are not found.

The work is bounded per report (`Budget`). What is beyond the bound is not checked any more, it is taken for a number.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

import regex

from daemon.labels import PersonalData as Kind
from daemon.text.contacts import secrets_in

MAX_TRIES = 400
"""Runs of digits that are tried as phone numbers, per report; each costs a millisecond."""
MAX_CHECKED = 5_000
"""Accounts, cards and national ids whose check digits are computed, per report."""
MAX_SECRETS = 500
"""Different secrets in one text; a text with more is taken for a list of them."""
MIN_SECRET = 7

_PEM = regex.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s\\,:.-]{0,20000}?-----END [A-Z ]{0,30}PRIVATE KEY-----"
)
_EMAIL = regex.compile(
    r"(?<![\w.+%-])[\p{L}\p{N}][\p{L}\p{N}_.+%-]{0,63}"
    r"@(?:[\p{L}\p{N}](?:[\p{L}\p{N}-]{0,61}[\p{L}\p{N}])?\.){1,8}\p{L}{2,24}(?![\p{L}\p{N}])"
)
_NUMBER = regex.compile(r"(?<![\p{L}\p{N}])[+(]{0,2}\d(?:[ \t\u00a0().\-/\u2010-\u2015]{0,3}\d){6,29}(?![\p{L}\p{N}])")
_SUBTRACTION = regex.compile(r"\d{1,4}\s*-\s*\d{1,4}")
_CARD = regex.compile(r"(?<![\p{L}\p{N}])[2-6](?:[ -]?\d){12,18}(?![\p{L}\p{N}])")
_IBAN = regex.compile(r"(?<![\p{L}\p{N}])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}", regex.IGNORECASE)
MIN_IBAN, MAX_IBAN = 15, 34
_COIN = regex.compile(r"\b(?:bc1[a-z0-9]{25,62}|[13][1-9A-HJ-NP-Za-km-z]{25,34}|0x[0-9a-fA-F]{40})\b")
_IP = regex.compile(r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f:]{2,39})(?![\w.]*[\w:])")
_WORDS = regex.compile(r"[A-Za-z0-9]+(?:_[A-Za-z]+)+")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
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
        """In the order of the text. Where places overlap, the kind that is looked for first counts."""
        budget = budget or Budget()
        taken: list[Found] = []
        for finder in self._finders:
            taken = _merged(taken, finder(text, budget))
        return taken

    def _phones(self, text: str, budget: Budget) -> Iterator[Found]:
        for place in _NUMBER.finditer(text):
            if _SUBTRACTION.fullmatch(place[0]):
                continue
            whole = [(0, len(place[0]), regex.sub(r"\D", "", place[0]))]
            for start, end, value in _phones_of(place[0], self._regions) if budget.try_phone() else whole:
                yield Found(kind=Kind.PHONE, start=place.start() + start, end=place.start() + end, value=value)

    def _national_ids(self, text: str, budget: Budget) -> Iterator[Found]:
        for name, shape in self._ids:
            for place in shape.finditer(text):
                if not budget.check() or _module(name).is_valid(place[0]):
                    value = regex.sub(r"\W", "", place[0]).upper()
                    yield Found(kind=Kind.ID, start=place.start(), end=place.end(), value=value)


def _merged(taken: list[Found], more: Iterator[Found]) -> list[Found]:
    """The places taken, with those of `more` that overlap none of them and none before."""
    merged: list[Found] = []
    for one in sorted([*((found, 0) for found in taken), *((found, 1) for found in more)], key=_by_start):
        if one[1] == 0:
            while merged and merged[-1].end > one[0].start:
                merged.pop()
            merged.append(one[0])
        elif not merged or merged[-1].end <= one[0].start:
            merged.append(one[0])
    return merged


def _by_start(one: tuple[Found, int]) -> tuple[int, int, int]:
    return one[0].start, one[1], -one[0].end


def _secrets(text: str, _budget: Budget) -> Iterator[Found]:
    for place in _PEM.finditer(text):
        yield Found(kind=Kind.SECRET, start=place.start(), end=place.end(), value=place[0])
    values = [one for one in dict.fromkeys(secrets_in(text)) if len(one) >= MIN_SECRET and not _WORDS.fullmatch(one)]
    if len(values) > MAX_SECRETS:
        for place in _LONG.finditer(text):
            yield Found(kind=Kind.SECRET, start=place.start(), end=place.end(), value=place[0])
        return
    for value in values:
        start = text.find(value)
        while start >= 0:
            yield Found(kind=Kind.SECRET, start=start, end=start + len(value), value=value)
            start = text.find(value, start + len(value))


def _ibans(text: str, budget: Budget) -> Iterator[Found]:
    for place in _IBAN.finditer(text):
        end = _iban_end(place[0]) if budget.check() else len(place[0])
        if end:
            value = regex.sub(r"[ -]", "", place[0][:end]).upper()
            yield Found(kind=Kind.IBAN, start=place.start(), end=place.start() + end, value=value)


def _iban_end(written: str) -> int:
    """Where the valid IBAN ends that this begins with; 0: none does. The pattern may run on into the next words."""
    compact, ends = "", []
    for position, character in enumerate(written, 1):
        if character not in " -":
            compact += character.upper()
            ends.append(position)
    for size in range(min(MAX_IBAN, len(compact)), MIN_IBAN - 1, -1):
        if _is_mod_97(compact[:size]) and _module("iban").is_valid(compact[:size]):
            return ends[size - 1]
    return 0


def _is_mod_97(compact: str) -> bool:
    return int("".join(str(int(one, 36)) for one in compact[4:] + compact[:4])) % 97 == 1


def _coins(text: str, budget: Budget) -> Iterator[Found]:
    for place in _COIN.finditer(text):
        if place[0].startswith("0x") or not budget.check() or _module("bitcoin").is_valid(place[0]):
            yield Found(kind=Kind.COIN, start=place.start(), end=place.end(), value=place[0])


def _emails(text: str, _budget: Budget) -> Iterator[Found]:
    for place in _EMAIL.finditer(text) if "@" in text else ():
        yield Found(kind=Kind.EMAIL, start=place.start(), end=place.end(), value=place[0].casefold())


def _cards(text: str, budget: Budget) -> Iterator[Found]:
    for place in _CARD.finditer(text):
        digits = regex.sub(r"\D", "", place[0])
        if len(set(digits)) > 1 and (not budget.check() or _module("luhn").is_valid(digits)):
            yield Found(kind=Kind.CARD, start=place.start(), end=place.end(), value=digits)


def _addresses(text: str, _budget: Budget) -> Iterator[Found]:
    for place in _IP.finditer(text):
        if "." in place[0] or place[0].count(":") > 1:
            try:
                address = ipaddress.ip_address(place[0])
            except ValueError:
                continue
            yield Found(kind=Kind.IP, start=place.start(), end=place.end(), value=str(address))


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
