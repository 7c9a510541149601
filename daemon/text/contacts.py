"""Finds the links, addresses, phone numbers, accounts and secrets in a text that its source does not have.

Whoever may write a training target could make the model send people to a page, a phone or an account of their own. So
the comparison is strict: a link counts as known only if the source has it whole, or has a link that starts with it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cache, cached_property
from typing import TYPE_CHECKING

import regex

from daemon.text.credentials import secrets_in

if TYPE_CHECKING:
    from tldextract import TLDExtract

PHONE_REGIONS = ("US", "GB", "DE", "FR", "IN")
"""Regions whose national phone numbers are found; numbers with a country code are found everywhere."""
MIN_PHONE_DIGITS = 7
MAX_TRIES = 500
"""Groups of digits that are tried per region."""
MAX_ALIAS = 2
"""Length of a short name in a program, such as `d` or `l1`."""

HIDDEN = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cf}]+")
_IDEOGRAPHIC_DOT = regex.compile(r"(?<=[A-Za-z0-9])。(?=[A-Za-z])")
_SPELLED_DOT = regex.compile(
    r"\s{0,3}[\[({]\s{0,3}(?:\.|dot|punkt|punto|point|ponto)\s{0,3}[\])}]\s{0,3}|(?<=[\w-])\s{1,3}dot\s{1,3}(?=[a-z]{2,24}\b)",
    regex.IGNORECASE,
)
_SPELLED_AT = regex.compile(
    r"\s{0,3}[\[({]\s{0,3}(?:@|at|arroba)\s{0,3}[\])}]\s{0,3}|(?<=\w)\s{1,3}at\s{1,3}(?=[\w-]+\.[a-z]{2,24}\b)",
    regex.IGNORECASE,
)
_LOOSE_DOT = regex.compile(r"(?<=[\w-])(?:\s{1,3}\.\s{0,3}|\.\s{1,3})(?=(?:com|net|org|info|biz|xyz|ru|cn|top|io)\b)")
_SCHEME = regex.compile(
    r"\b(?:[a-z][a-z0-9+.-]{1,20}://|www\.)[^\s<>\"']+"
    r"|\b(?:mailto|tel|sms|javascript|vbscript|whatsapp|skype|bitcoin|magnet):[^\s<>\"']+"
    r"|\bdata:\w+/[\w.+-]+[;,][^\s<>\"']+",
    regex.IGNORECASE,
)
_TAIL = r"(?::\d{1,5})?(?:[/?#][^\s<>\"']*)?"
_DOMAINS = (
    regex.compile(
        rf"(?<![\p{{L}}\p{{N}}@.-])(?:[\p{{L}}\p{{N}}][\p{{L}}\p{{N}}\p{{M}}-]*\.)+\p{{L}}[\p{{L}}\p{{N}}\p{{M}}-]+{_TAIL}"
    ),
    # beside letters of scripts without spaces
    regex.compile(rf"(?<![A-Za-z0-9@.-])(?:[A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z][A-Za-z0-9-]+{_TAIL}"),
)
_IP = regex.compile(rf"(?<![\w.])(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?![\w.]*\w){_TAIL}")
_CALL_NAMES = frozenset(
    {"now", "show", "name", "id", "info", "int", "date", "call", "run", "sh", "py", "read", "save", "next"}
)
"""Top-level domains that are also names in programs: `datetime.now()` and `d.name` are no links."""
_EMAIL = regex.compile(r"[^\s@<>()\[\],;:\"'`|]{1,64}@[^\s@<>()\[\],;:\"'`|]{1,200}\.[^\s@<>()\[\],;:\"'`|.]{2,60}")
_GROUPING = regex.compile(r"[\s().\-/]+")
_TRAILING = ".,;:!?)]}>*_'\"`"

_IBAN = regex.compile(r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}", regex.IGNORECASE)
_COIN = regex.compile(r"\b(?:bc1[a-z0-9]{25,62}|[13][1-9A-HJ-NP-Za-km-z]{25,34}|0x[0-9a-fA-F]{40})\b")
_LONG_NUMBER = regex.compile(r"\d(?:[ .-]?\d){8,}")
_SUBTRACTION = regex.compile(r"\d+ - \d+")
PLACEHOLDER = regex.compile(r"<(?P<kind>EMAIL|PHONE|IBAN|COIN|CARD|ID|IP|SECRET)_(?P<number>\d{1,6})>")
"""Stands for what `daemon.privacy` redacted at intake."""


def visible(text: str) -> str:
    """The text as a person sees it: without characters that show nothing, in Unicode's compatibility form."""
    return unicodedata.normalize("NFKC", HIDDEN.sub("", text))


def new_contact(text: str, source: str) -> str | None:
    """The first link, e-mail address, phone number or account of `text` that `source` does not have."""
    return next(new_contacts(text, source), None)


def new_contacts(text: str, source: str) -> Iterator[str]:
    """The links, e-mail addresses, phone numbers and accounts of `text` that `source` does not have."""
    text = _plain(text)
    known = _Known(source)
    for link in _links(text):
        if not known.has(_bare(link)):
            yield link
    for found in _EMAIL.findall(text):
        if not known.has(found.strip(_TRAILING).casefold()):
            yield str(found)
    yield from (raw for raw, national in _phones(text) if national not in known.joined)
    yield from (account for account in _accounts(text) if account.casefold() not in known.joined)
    yield from _new_placeholders(text, source, secret=False)


def contact_key(contact: str) -> str:
    """The same text for all forms of a contact: the host of a link, the digits of a number."""
    bare = _bare(_plain(contact).strip(_TRAILING))
    host = regex.split(r"[/?#]", bare)[0]
    return host if any(character.isalpha() for character in host) else regex.sub(r"\D", "", bare)


def holds_value_of(placeholder: str, text: str) -> bool:
    """Whether the text has any value of the placeholder's kind; False if the first is no placeholder.

    Questions have placeholders, too. So a value in an answer comes from the model itself.
    """
    found = PLACEHOLDER.fullmatch(placeholder)
    if found is None:
        return False
    kind = found["kind"]
    if kind == "EMAIL":
        return _EMAIL.search(text) is not None
    if kind == "PHONE":
        return next(_phones(text), None) is not None
    if kind in {"IBAN", "COIN"}:
        return next(_accounts(text), None) is not None
    return next(secrets_in(text), None) is not None if kind == "SECRET" else _LONG_NUMBER.search(text) is not None


def new_secret(text: str, source: str) -> str | None:
    """The start of the first key, token or long random text of `text` that `source` does not have."""
    text, source = visible(text), visible(source)
    found = next((secret for secret in secrets_in(text) if secret not in source), None)
    if found is None:
        return next(_new_placeholders(text, source, secret=True), None)
    return f"{found[:6]}..."


def _new_placeholders(text: str, source: str, *, secret: bool) -> Iterator[str]:
    """What was redacted at intake is still a contact, or a secret, that the source does not have."""
    kept = (found[0] for found in PLACEHOLDER.finditer(text) if (found["kind"] == "SECRET") == secret)
    yield from (found for found in kept if found not in source)


class _Known:
    """The source. It may be far longer than the text, so it is only read when the text has something to look up."""

    def __init__(self, source: str) -> None:
        self._source = source

    @cached_property
    def _text(self) -> str:
        return _plain(self._source).casefold().replace("www.", "")

    @cached_property
    def joined(self) -> str:
        """Without the signs that group digits."""
        return _GROUPING.sub("", self._text)

    def has(self, value: str) -> bool:
        """Whether the source has it as a whole: `ample.com` is not in `example.com`, nor is `example.co`."""
        return regex.search(rf"(?<![\w.@-]){regex.escape(value)}(?![\w-]|\.\w)", self._text) is not None


def _plain(text: str) -> str:
    """The text with the common disguises of links and addresses taken off: `evil[.]com`, `name at evil dot com`."""
    plain = _IDEOGRAPHIC_DOT.sub(".", visible(text))
    plain = _LOOSE_DOT.sub(".", _SPELLED_DOT.sub(".", plain))
    return _SPELLED_AT.sub("@", plain)


def _links(text: str) -> Iterator[str]:
    for found in _SCHEME.finditer(text):
        yield found[0].rstrip(_TRAILING)
    for found in _IP.finditer(text):
        if all(int(part) < 256 for part in regex.split(r"[:/?#]", found[0])[0].split(".")):
            yield found[0].rstrip(_TRAILING)
    for pattern in _DOMAINS:
        for found in pattern.finditer(text):
            host = regex.split(r"[:/?#]", found[0])[0]
            first, _, last = host.rpartition(".")
            is_code = last in _CALL_NAMES and (len(first) <= MAX_ALIAS or text[found.end() : found.end() + 1] == "(")
            if not is_code and _is_domain(host):
                yield found[0].rstrip(_TRAILING)


def _is_domain(host: str) -> bool:
    last = host.rpartition(".")[2]
    if last[0].isupper() and not last.isupper():  # "the end.It is": a missing space
        return False
    parts = _suffixes()(host)
    return bool(parts.suffix and parts.domain)


def _bare(link: str) -> str:
    return regex.sub(r"^(?:[a-z][a-z0-9+.-]*://)?(?:www\.)?", "", link.casefold()).rstrip("/")


def _phones(text: str) -> Iterator[tuple[str, str]]:
    """The number as written, and its digits without the country code."""
    if sum(character.isdigit() for character in text) < MIN_PHONE_DIGITS:
        return
    from phonenumbers import Leniency, PhoneNumberMatcher  # noqa: PLC0415

    kinds = [("ZZ", Leniency.POSSIBLE), *((region, Leniency.STRICT_GROUPING) for region in PHONE_REGIONS)]
    for region, leniency in kinds:
        for match in PhoneNumberMatcher(text, region, leniency=leniency, max_tries=MAX_TRIES):
            if not _SUBTRACTION.fullmatch(match.raw_string):
                yield match.raw_string, str(match.number.national_number)


def _accounts(text: str) -> Iterator[str]:
    from stdnum import bitcoin, iban  # noqa: PLC0415

    for found in _IBAN.findall(text):
        compact = regex.sub(r"[ -]", "", found).upper()
        # the pattern may run on into the next words
        yield from (compact[:size] for size in range(15, len(compact) + 1) if iban.is_valid(compact[:size]))
    for found in _COIN.findall(text):
        if found.startswith("0x") or bitcoin.is_valid(found):
            yield found


@cache
def _suffixes() -> TLDExtract:
    from tldextract import TLDExtract  # noqa: PLC0415 - takes half a second

    return TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=False)
