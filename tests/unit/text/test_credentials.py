"""Which secrets are found, by whichever of detect-secrets' patterns, and that hostile texts are read once."""

from __future__ import annotations

import base64
from importlib import import_module

import pytest
from detect_secrets.plugins.jwt import JwtTokenDetector

from daemon.text.credentials import MAX_DECODED, secrets_in

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ"
OPENAI = "sk-proj-" + "a" * 20 + "T3BlbkFJ" + "b" * 20
AWS = "0123456789abcdefABCDEF/+0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"bearer {TOKEN}.sig", [f"{TOKEN}."]),
        (f"xx{TOKEN} and {TOKEN}", [TOKEN, TOKEN]),
        ("eyJhIjoxfQ eyJhIjoxfQ.", []),
        (f"see {OPENAI}.", [OPENAI]),
        ("sk-T3BlbkFJ", []),
        ("//r.example/:_authToken=npm_abc # mine\nnext", ["npm_abc # mine"]),
        ("//a//b/:_authToken=01234567-89ab-cdef-0123-456789abcdef", ["01234567-89ab-cdef-0123-456789abcdef"]),
        ("/:_authToken=npm_abc", []),
        (f"aws_secret_key = '{AWS}'", [AWS]),
        (f"secret_key = '{AWS}'", []),
        ("https://user:hunter22@example.org", ["hunter22"]),
    ],
)
def test_what_is_a_secret(text: str, expected: list[str]) -> None:
    assert list(dict.fromkeys(secrets_in(text))) == list(dict.fromkeys(expected))


@pytest.mark.parametrize(
    ("module", "name", "text"),
    [
        ("jwt", "JwtTokenDetector", f"a {TOKEN}.x_{TOKEN} eyJ.eyJ eyJa.b eyJ{TOKEN}"),
        ("npm", "NpmDetector", "//a/:_authToken=npm_x //b/:_authToken=npm_y\n// /:_authToken=\n npm_z//"),
        ("openai", "OpenAIDetector", f"sk-sk-{OPENAI}-{OPENAI} sk-T3BlbkFJ{OPENAI}"),
        ("aws", "AWSKeyDetector", f"AWS key is pw \"{AWS}' aws\ntoken '{AWS}' aws token: \"{AWS}\""),
    ],
)
def test_all_is_found_that_the_detector_of_detect_secrets_finds(module: str, name: str, text: str) -> None:
    detector = getattr(import_module(f"detect_secrets.plugins.{module}"), name)()
    expected = set(detector.analyze_string(text))
    assert expected
    assert expected <= set(secrets_in(text))


@pytest.mark.parametrize(
    "piece", ["eyJ", "eyJ.", "sk-", "sk-T3BlbkFJ", "//", "//r/:_authToken=", "aws_key_pw'", "://a:"]
)
def test_the_starts_of_secrets_a_hundred_thousand_times_are_read_once(piece: str) -> None:
    # a pattern that reads on from each start would take minutes
    found = list(secrets_in(piece * 100_000 + " T3BlbkFJ /:_authToken="))
    assert len(found) == (1 if piece.startswith("sk-") else 0)  # "sk-" and 16 more signs are a secret, whatever follows


def test_only_so_many_web_tokens_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(JwtTokenDetector, "is_formally_valid", staticmethod(decoded.append))
    assert list(secrets_in(f"{TOKEN} " * (MAX_DECODED + 3))) == [TOKEN] * 3
    assert len(decoded) == MAX_DECODED


def test_a_web_token_nested_too_deep_to_read_is_a_secret() -> None:
    deep = base64.urlsafe_b64encode(b'{"a":' * 30_000).decode().rstrip("=")
    assert f"{deep}.e30" in secrets_in(f"{deep}.e30")
