"""`make fuzz`: hostile messages through decoding and redaction, hostile rules over answers; prints one line of JSON.

Messages: one mebibyte of each of `fuzz_texts.FLOODS` in one text and in many, then random ones. Rules: those of
`fuzz_texts.RULES`, then random ones; as stored, so without the look at their arrival. No rule is larger than a message
may be. A crash is any exception but a `MessageRejected`, or a question that killed the child process. CPU seconds
are those of this process and of the child together. The memory of this process is measured at the start, after half of
the work, and at the end. Exits with 1 if something crashed, took over a second, or the memory grew in the second half.
The count includes the fixed ones. To share the work, give each part a `--seed`. The progress goes to standard error.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from connectors.checker import client
from connectors.messages import MAX_MESSAGE_BYTES, Checks, MessageRejected, decode
from daemon.config import Config
from daemon.privacy.redact import Redactor
from daemon.text.rules import failures
from tests.benchmarks.fuzz_texts import FLOODS, PIECES, RULES

VALID = {
    "version": 1,
    "id": "a-1",
    "occurred_at": "2026-01-31T12:00:00Z",
    "model": "m",
    "messages": [{"role": "user", "content": "What is the capital of Australia?"}],
    "response": "Sydney.",
    "reason": "wrong",
    "follow_up": "No, I asked for the capital.",
    "category": "wrong-fact",
    "reporter": "r",
    "correction": "Canberra.",
    "metadata": {"a": [1, 2, {"b": None}]},
}
Work = tuple[Callable[[], object], str]
"""A thing to do, and the start of what it is done with."""
MOST_BYTES = 2 * MAX_MESSAGE_BYTES
MOST_CPU_MS = 1000
MOST_GROWTH_MIB = 32
"""In the second half of the work, when all caches are full."""
PROGRESS = 2000
"""Messages, or rules, between two lines of progress."""
TOKENS = [
    *(
        "a",
        "b",
        "x",
        ".",
        "^",
        "$",
        r"\w",
        r"\s",
        r"\d",
        r"\b",
        r"\X",
        r"\p{L}",
        r"\p{Lu}",
        r"\1",
        "[a-z]",
        "[^a]",
        "|",
    ),
    *(
        "(a|aa)+",
        "(?R)",
        "(?1)",
        "(?:",
        "(",
        ")",
        "*",
        "+",
        "?",
        "*+",
        "++",
        "??",
        "{2}",
        "{1000}",
        "{0,1000}",
        "{,9999}",
    ),
    *(
        "(?i)",
        "(?s)",
        "(?r)",
        "(?b)",
        "(?e)",
        "(?p)",
        "(?<=a)",
        "(?!b)",
        "(?>a+)",
        "{e<=2}",
        "[\\w&&\\p{L}]",
        "(?P<n>a)",
    ),
    *("(?P=n)", "(?&n)", "(?(1)a|b)", "(.*)*", "(x+x+)+y", "\\L<w>", "\\K", "\\G", "ß", "\u0130", "\U0001f600", "\\"),
]
TEXTS = ["", "a" * 60 + "b", "ab" * 500, "hello world", "x" * 30_000, '"' + "a" * 50 + '"', "\u0301" * 2000, "[]", "{}"]


class Fuzzer:
    """A seeded source of messages and of rules."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def messages(self, flood_bytes: int) -> Iterator[bytes]:
        """The fixed ones first; 0 bytes: without them."""
        for piece in FLOODS if flood_bytes else ():
            times = (flood_bytes - len(json.dumps(VALID))) // len(json.dumps(piece)[1:-1])
            yield json.dumps({**VALID, "response": piece * times}).encode()
            many = [piece] * min(90_000, flood_bytes // (len(json.dumps(piece)) + 3))
            yield json.dumps({**VALID, "metadata": {"many": many}}).encode()
        while True:
            yield self.message()

    def rules(self) -> Iterator[dict[str, Any]]:
        yield from RULES
        while True:
            rules = self.checks()
            if size(rules) <= MAX_MESSAGE_BYTES:
                yield rules

    def message(self) -> bytes:
        value = json.loads(json.dumps(VALID))
        for _ in range(self.random.randint(1, 3)):
            self._change(value)
        if size(value) > MOST_BYTES:  # refused by its size alone
            return self.message()
        if self.random.random() < 0.2:
            value["checks"] = next(rules for rules in iter(self.checks, None) if size(rules) <= MAX_MESSAGE_BYTES)
        if self.random.random() < 0.3:
            value["response"] = "".join(self.random.choices(PIECES, k=self.random.choice([2, 10, 200])))
        raw = json.dumps(value).encode(errors="replace")
        kind = self.random.random()
        if kind < 0.3:
            raw = self._damaged(raw)
        return gzip.compress(raw) if kind > 0.97 else raw

    def checks(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if self.random.random() < 0.4:
            made["regex"] = self.pattern()
        if self.random.random() < 0.6:
            made["json_schema"] = self.schema(self.random.randint(0, 5))
        if self.random.random() < 0.2:
            made["must_contain"] = ["a" * self.random.randint(1, 300)] * self.random.choice([1, 3, 190])
        return made

    def pattern(self) -> str:
        return "".join(self.random.choices(TOKENS, k=self.random.choice([1, 3, 6, 12, 40])))[:1000]

    def schema(self, depth: int) -> Any:
        if depth <= 0:
            return self.random.choice(
                [True, {}, {"type": "string"}, {"$ref": "#"}, {"pattern": self.pattern()}, {"const": 5}]
            )
        schema: dict[str, Any] = {}
        for _ in range(self.random.randint(1, 3)):
            keyword = self.random.choice(list(_KEYWORDS))
            schema[keyword] = _KEYWORDS[keyword](self, depth)
        return schema

    def some(self, depth: int) -> list[Any]:
        one = self.schema(depth - 1)
        return (
            [one] * self.random.choice([1, 2, 2, 20, 200])
            if self.random.random() < 0.5
            else [one, self.schema(depth - 1)]
        )

    def named(self, depth: int) -> dict[str, Any]:
        return {self.random.choice(["a", "b", "d", self.pattern()]): self.schema(depth - 1) for _ in range(2)}

    def answer(self) -> str:
        if self.random.random() < 0.4:
            return self.random.choice(TEXTS)
        return json.dumps(self.value(self.random.randint(0, 4)))

    def value(self, depth: int) -> Any:
        if depth <= 0:
            return self.random.choice([0, 1.5, True, None, "a" * 50 + "b", "x", 10**300, -1e-300, "2026-01-01"])
        if self.random.random() < 0.5:
            return [self.value(depth - 1)] * self.random.choice([0, 1, 3, 30])
        return {self.random.choice("abdx") * self.random.choice([1, 40]): self.value(depth - 1) for _ in range(3)}

    def _change(self, value: dict[str, Any]) -> None:
        at: Any = value
        while True:
            key = self.random.choice(list(at) if isinstance(at, dict) else range(len(at))) if at else None
            inner = None if key is None else at[key]
            if not isinstance(inner, dict | list) or not inner or self.random.random() < 0.3:
                break
            at = inner
        if key is not None:
            at[key] = self._hostile()

    def _hostile(self) -> Any:
        size = self.random.choice([3, 30, 3000] if self.random.random() < 0.99 else [20_000, 60_000, 110_000])
        piece = self.random.choice([*PIECES, "a", "\u200b"])
        made: list[Callable[[], Any]] = [
            lambda: self.random.choice([None, True, -1, 1e300, 10**400, "", " ", "\x00", "\ud800", "<|im_end|>"]),
            lambda: piece * (size // len(piece) + 1),
            lambda: [self.random.choice([1, {}, ["x"]])] * size,
            lambda: [piece] * (size // len(piece) + 1),
            lambda: {str(n): n for n in range(size)},
            self._deep,
            lambda: self.value(3),
        ]
        return self.random.choice(made)()

    def _deep(self) -> Any:
        deep: Any = 1
        for _ in range(self.random.choice([5, 31, 33, 90])):
            deep = [deep] if self.random.random() < 0.5 else {"k": deep}
        return deep

    def _damaged(self, raw: bytes) -> bytes:
        changed = bytearray(raw)
        for _ in range(self.random.randint(1, 8)):
            at = self.random.randrange(len(changed))
            changed[at : at + self.random.randint(0, 4)] = self.random.randbytes(self.random.randint(0, 4))
        return bytes(changed[: self.random.randrange(len(changed))]) if self.random.random() < 0.2 else bytes(changed)


_KEYWORDS: dict[str, Callable[[Fuzzer, int], Any]] = {
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), Fuzzer.some),
    **dict.fromkeys(("properties", "patternProperties", "dependentSchemas", "$defs"), Fuzzer.named),
    **dict.fromkeys(
        ("items", "contains", "not", "if", "then", "else", "propertyNames", "additionalProperties"),
        lambda fuzzer, depth: fuzzer.schema(depth - 1),
    ),
    **dict.fromkeys(
        ("unevaluatedItems", "unevaluatedProperties"),
        lambda fuzzer, _: fuzzer.random.choice([False, {"type": "string"}]),
    ),
    **dict.fromkeys(("enum",), lambda fuzzer, _: [fuzzer.value(2)] * fuzzer.random.choice([1, 900])),
    **dict.fromkeys(("const",), lambda fuzzer, _: fuzzer.value(3)),
    **dict.fromkeys(
        ("multipleOf", "maximum"), lambda fuzzer, _: fuzzer.random.choice([1, 1e-300, 1e300, 10**300, 3, 0.1])
    ),
    **dict.fromkeys(("minItems", "maxLength", "minContains"), lambda fuzzer, _: fuzzer.random.choice([0, 1, 10**300])),
    **dict.fromkeys(("pattern",), lambda fuzzer, _: fuzzer.pattern()),
    **dict.fromkeys(("format",), lambda fuzzer, _: fuzzer.random.choice(["email", "regex", "date-time", "uri", "x"])),
    **dict.fromkeys(
        ("$ref", "$dynamicRef"), lambda fuzzer, _: fuzzer.random.choice(["#", "#/$defs/a", "#x", "http://x/y"])
    ),
    **dict.fromkeys(("uniqueItems",), lambda _, __: True),
    **dict.fromkeys(
        ("type",), lambda fuzzer, _: fuzzer.random.choice(["string", "array", "object", ["null", "number"], 5])
    ),
}


def size(value: Any, known: dict[int, int] | None = None) -> int:
    """Bytes of the value as JSON, about; parts that stand in it many times are counted many times, but read once."""
    known = {} if known is None else known
    if not isinstance(value, dict | list):
        return 4 + (len(value) if isinstance(value, str) else 0 if value is None else len(str(value)))
    if id(value) not in known:
        keys = sum(map(len, value)) + 4 * len(value) if isinstance(value, dict) else 0
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 2 + keys + sum(size(one, known) for one in inner)
    return known[id(value)]


class Meter:
    """CPU seconds of this process and of the child, and what fell out of the usual."""

    def __init__(self) -> None:
        self._child_s = 0.0
        self._ask = client._CHILD.ask
        self.crashes: list[str] = []
        self.slowest_ms = self.cpu_s = 0.0
        self.slowest = ""
        self.count = 0

    def __enter__(self) -> Meter:
        client._CHILD.ask = self._measured  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        client._CHILD.ask = self._ask  # type: ignore[method-assign]

    def _measured(self, question: dict[str, Any]) -> client.Verdict:
        verdict = self._ask(question)
        self._child_s += verdict.cpu_s
        if verdict.undecided == "crash":
            self.crashes.append(f"child: {json.dumps(question)[:300]}")
        return verdict

    def run(self, work: Callable[[], object], what: str) -> None:
        started = time.process_time() + self._child_s
        try:
            work()
        except MessageRejected:
            pass
        except Exception as exc:
            self.crashes.append(f"{type(exc).__name__}: {what}")
        self.count += 1
        took_s = time.process_time() + self._child_s - started
        self.cpu_s += took_s
        if took_s * 1000 > self.slowest_ms:
            self.slowest_ms, self.slowest = took_s * 1000, what[:200]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--checks", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = fuzz(args.messages, args.checks, args.seed)
    print(json.dumps(found))
    sys.exit(1 if any(problems(figures) for figures in found.values()) else 0)


def problems(figures: dict[str, Any]) -> list[str]:
    """What is not as it must be, in the figures of one kind of work."""
    _, half, end = figures["memory_mib"]
    found = [f"{figures['slowest_cpu_ms']} ms"] if figures["slowest_cpu_ms"] > MOST_CPU_MS else []
    grew = [f"{end - half} MiB more memory"] if end - half > MOST_GROWTH_MIB else []
    return [*figures["crashes"], *found, *grew]


def fuzz(messages: int, checks: int, seed: int, flood_bytes: int = MAX_MESSAGE_BYTES) -> dict[str, Any]:
    """Run both; the figures as a dictionary."""
    with tempfile.TemporaryDirectory() as folder:
        redactor = Redactor(Config.model_validate({"data_dir": Path(folder) / "var", "model": {"path": folder}}))
        _measured("", min(200, messages // 4), _decoding(Fuzzer(seed + 1), redactor, 0))  # caches fill up
        found = {"messages": _measured("messages", messages, _decoding(Fuzzer(seed), redactor, flood_bytes))}
        _measured("", min(200, checks // 4), _checking(Fuzzer(seed + 1)))
        return {**found, "checks": _measured("checks", checks, _checking(Fuzzer(seed)))}


def _decoding(fuzzer: Fuzzer, redactor: Redactor, flood_bytes: int) -> Iterator[Work]:
    for raw in fuzzer.messages(flood_bytes):
        yield partial(_take, raw, redactor), repr(raw[:300])


def _take(raw: bytes, redactor: Redactor) -> None:
    redactor.redact(decode(raw))


def _checking(fuzzer: Fuzzer) -> Iterator[Work]:
    for rules in fuzzer.rules():
        # as stored by an earlier version: without the look at the door
        checks = Checks.model_construct(**{**Checks().model_dump(), **rules})
        yield partial(failures, checks, fuzzer.answer()), repr(rules)[:300]


def _measured(name: str, count: int, source: Iterator[Work]) -> dict[str, Any]:
    memory = [_memory_mib()]
    with Meter() as meter:
        for part in (count // 2, count - count // 2):
            for work, what in islice(source, part):
                meter.run(work, what)
                if meter.count % PROGRESS == 0:
                    print(f"{meter.count} {name}, slowest {meter.slowest_ms:.0f} ms", file=sys.stderr, flush=True)
            memory.append(_memory_mib())
    return {
        "count": meter.count,
        "crashes": meter.crashes[:10],
        "slowest_cpu_ms": round(meter.slowest_ms),
        "slowest": meter.slowest,
        "cpu_s": round(meter.cpu_s),
        "memory_mib": [round(one) for one in memory],
    }


def _memory_mib() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


if __name__ == "__main__":
    main()
