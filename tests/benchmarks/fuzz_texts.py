"""What `make fuzz` makes its messages and rules of: pieces that a finder or a validator has to work for."""

from __future__ import annotations

from typing import Any

PIECES = (
    *("Jane.Doe+x@example.co.uk ", "a@b.co ", "a.a.", "@", "+44 20 7946 0958 ", "(212) 555-0147, ", "089/1234567 "),
    *("DE89 3704 0044 0532 0130 00 ", "DE89 ", "AB12ABCDEFGHIJ ", "4111-1111-1111-1111 ", "4111 ", "536-22-8726 "),
    *("943 476 5919 ", "86 095 742 719 ", "1234567890 ", "1 ", "12345678:", "192.168.0.1 ", "2001:db8::1 ", "::"),
    *("0x52908400098527886E0F7030069857D2E4169EE7 ", "1BoatSLRHtKNngkdXEeobR76b53LETtpyT ", "AKIAIOSFODNN7EXAMPLE "),
    *("aws", "awskey=", "awspw'", "ghp_abcdefghijklmnopqrstuvwxyz0123456789 ", "https://a:hunter22@c ", "://a:", "//"),
    *("//r/:_authToken=", "npm_x1234567 ", "/:_authToken=", "sk-", "T3BlbkFJ", "eyJ", "eyJhIjoxfQ.", "e30.e30 ", "."),
    *("eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.abc ", "eyJ" + "W1tb" * 2000 + ".e30 ", "glagent-", "xoxb-1-", "xoxb-1-a "),
    *("-----BEGIN RSA PRIVATE KEY-----", "\nMIIabc\n", "-----END RSA PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----"),
    *(
        "SG.",
        "AC" + "a" * 32,
        "AccountKey=",
        "a" * 32 + "-us1 ",
        "M" + "a" * 25 + ".",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaa1A23a ",
    ),
    *("<EMAIL_3> ", "<PHONE_999999>", "\u0663\u0664\u0665", "\u212a", "\u017f", "\u0661 ", "\n", " ", "-", "(", "+("),
)
FLOODS = (
    *PIECES,
    "0123456789abcdef",
    "a1B2c3D4",
    "a b",
    "+44 20 7946 0958 a@b.co, 4111-1111-1111-1111, DE89 3704 0044; ",
)
"""Repeated until a message is full."""

_BOMB: Any = {"type": "string"}
for _ in range(12):
    _BOMB = {"allOf": [_BOMB, _BOMB]}
_CHAIN = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(24)}
RULES: tuple[dict[str, Any], ...] = (
    {"json_schema": {"allOf": [{}] * 100_000}},
    {"json_schema": _BOMB},
    {"json_schema": {"$ref": "#/$defs/d0", "$defs": {**_CHAIN, "d24": {}}}},
    {"json_schema": {"enum": [[n] for n in range(100_000)]}},
    {"json_schema": {"uniqueItems": True, "items": {"uniqueItems": True}}},
    {"json_schema": {"patternProperties": {"(a|aa)+$" + "b" * n: {} for n in range(300)}}},
    {"regex": "(?i)paris|(?R)x+|" + "a" * 200},
    {"regex": "(?:(?:a{0,1000}){0,1000}){0,1000}b"},
    {"regex": "(a|aa)+$x"},
    {"regex": "(?b)(?:a*b*){e<=9}x"},
    {"must_contain": ["a" * 20_000 + "b"], "must_not_contain": ["\u0301" * 100]},
)
"""The schema bomb, chains of references, and patterns that take much memory or time."""
