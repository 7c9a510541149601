"""Finds keys, tokens and long random texts: the detectors of detect-secrets, and patterns of our own.

A text comes from outside and may be a megabyte long, so each pattern takes time in proportion to the text. Four of
detect-secrets' own do not (they read the rest of a text, or of a line, from each possible start again, or try very
many ways); what they find is found here by patterns that read it once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import regex

MIN_OPAQUE_CHARACTERS = 32
MIN_OPAQUE_DIGITS = 3
MAX_DECODED = 500
"""JSON Web Tokens of one text that are decoded to see whether they are one; the others are taken for one."""

_OPAQUE = regex.compile(rf"[A-Za-z0-9_+]{{{MIN_OPAQUE_CHARACTERS},}}=*")
_KEYS = regex.compile(
    r"\b(?:(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}|AIza[\w-]{30,}|hf_[A-Za-z0-9]{20,}|ya29\.[\w-]{20,}|gh[opsur]_\w{20,})"
)
_WEB_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_=-])(?=[A-Za-z0-9_=-]++\.[A-Za-z0-9_=-])[A-Za-z0-9_=-]*?(eyJ[A-Za-z0-9_=-]++\.[A-Za-z0-9_=-]++\.?)"
)
_NPM = re.compile(r"^(?>.*?//).+/:_authToken=\s*(npm_.+|[A-Fa-f0-9-]{36}).*", re.MULTILINE)
_OPENAI = re.compile(
    r"(?<![A-Za-z0-9_-])(?>[A-Za-z0-9_-]*?(?=sk-))(sk-[A-Za-z0-9_-]*[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20})"
)
_AWS_ID = re.compile(r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}")
_AWS_QUOTED = re.compile(r"['\"](?=([0-9a-zA-Z/+]{40})['\"])")
_AWS_BEFORE = re.compile(r"aws.{0,20}?(?:key|pwd|pw|password|pass|token).{0,20}?\Z", re.IGNORECASE)
MAX_AWS_BEFORE = 51
"""Characters that the pattern before can read."""
_PLUGINS = (
    *("azure_storage_key.AzureStorageKeyDetector", "basic_auth.BasicAuthDetector"),
    *("discord.DiscordBotTokenDetector", "github_token.GitHubTokenDetector", "gitlab_token.GitLabTokenDetector"),
    *("mailchimp.MailchimpDetector", "private_key.PrivateKeyDetector", "pypi_token.PypiTokenDetector"),
    *("sendgrid.SendGridDetector", "slack.SlackDetector", "square_oauth.SquareOAuthDetector", "stripe.StripeDetector"),
    *("telegram_token.TelegramBotTokenDetector", "twilio.TwilioKeyDetector"),
)


def secrets_in(text: str) -> Iterator[str]:
    """Keys, tokens and long random texts."""
    return (text[start:end] for start, end in secret_places(text))


def secret_places(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each."""
    for pattern in (*_patterns(), _AWS_ID, _KEYS):
        yield from (span for place in pattern.finditer(text) for span in _spans(place))
    for quote in _AWS_QUOTED.finditer(text):
        if _AWS_BEFORE.search(text[max(0, quote.start() - MAX_AWS_BEFORE) : quote.start()]):
            yield quote.span(1)
    if "eyJ" in text:
        yield from _web_tokens(text)
    if "/:_authToken=" in text:
        yield from (place.span(1) for place in _NPM.finditer(text))
    if "T3BlbkFJ" in text:
        yield from (place.span(1) for place in _OPENAI.finditer(text))
    yield from (place.span() for place in _OPAQUE.finditer(text) if _is_random(place[0]))


def _spans(place: Any) -> Iterator[tuple[int, int]]:
    """The groups of the match, which hold the secret; without groups, the match."""
    groups = range(1, place.re.groups + 1) or (0,)
    return (place.span(group) for group in groups if place[group])


def _web_tokens(text: str) -> Iterator[tuple[int, int]]:
    from detect_secrets.plugins.jwt import JwtTokenDetector  # noqa: PLC0415

    for number, place in enumerate(_WEB_TOKEN.finditer(text)):
        try:
            found = number >= MAX_DECODED or JwtTokenDetector.is_formally_valid(place[1])
        except RecursionError:  # its content is nested deeper than Python reads
            found = True
        if found:
            yield place.span(1)


def _is_random(run: str) -> bool:
    """Letters of both cases and several digits: a name in a program has fewer."""
    digits = sum(character.isdigit() for character in run)
    return digits >= MIN_OPAQUE_DIGITS and run != run.lower() and run != run.upper()


@cache
def _patterns() -> Sequence[Any]:
    """Of the detectors that find whatever their patterns do."""
    from importlib import import_module  # noqa: PLC0415 - takes a while

    found = (name.split(".") for name in _PLUGINS)
    detectors = [getattr(import_module(f"detect_secrets.plugins.{module}"), name) for module, name in found]
    return [pattern for detector in detectors for pattern in detector.denylist]
