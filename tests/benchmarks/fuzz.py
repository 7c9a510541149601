"""`make fuzz`: random messages through `decode` and random rules over random answers; prints one line of JSON.

A crash is any exception but a `MessageRejected` of `decode`, or a question that killed the child process. CPU seconds
are those of this process and of the child together. The memory of this process is measured at the start, after half of
the work, and at the end. Exits with 1 if something crashed, took over a second, or the memory grew in the second half.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil

from connectors.checker import client
from connectors.messages import Checks, MessageRejected, decode
from daemon.text.rules import failures

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
MOST_CPU_MS = 1000
MOST_GROWTH_MIB = 32
"""In the second half of the work, when all caches are full."""
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

    def message(self) -> bytes:
        value = json.loads(json.dumps(VALID))
        for _ in range(self.random.randint(1, 3)):
            self._change(value)
        if self.random.random() < 0.2:
            value["checks"] = self.checks()
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
        size = self.random.choice([3, 30, 3000] if self.random.random() < 0.97 else [100_000, 300_000])
        deep: Any = 1
        for _ in range(self.random.choice([5, 31, 33, 90])):
            deep = [deep] if self.random.random() < 0.5 else {"k": deep}
        lists: list[Any] = [[1] * size, [{}] * size, [["x"]] * size, {str(n): n for n in range(size)}]
        texts = ["", " ", "\x00", "\ud800", "<|im_end|>", "a" * size, "\u200b" * size]
        return self.random.choice([None, True, -1, 1e300, 10**400, *texts, *lists, deep, self.value(3)])

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


class Meter:
    """CPU seconds of this process and of the child, and what fell out of the usual."""

    def __init__(self) -> None:
        self._child_s = 0.0
        self._ask = client._CHILD.ask
        self.crashes: list[str] = []
        self.slowest_ms = 0.0
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
        self.slowest_ms = max(self.slowest_ms, (time.process_time() + self._child_s - started) * 1000)


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


def fuzz(messages: int, checks: int, seed: int) -> dict[str, Any]:
    """Run both; the figures as a dictionary."""
    fuzzer, found = Fuzzer(seed), {}
    warm = Fuzzer(seed + 1)
    for name, count, once in (("messages", messages, _decode), ("checks", checks, _check)):
        for _ in range(min(200, count // 4)):  # caches fill up to their size
            once(warm, Meter())
        memory = [_memory_mib()]
        with Meter() as meter:
            for part in (count // 2, count - count // 2):
                for _ in range(part):
                    once(fuzzer, meter)
                memory.append(_memory_mib())
        found[name] = {
            "count": meter.count,
            "crashes": meter.crashes[:10],
            "slowest_cpu_ms": round(meter.slowest_ms),
            "memory_mib": [round(one) for one in memory],
        }
    return found


def _memory_mib() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


def _decode(fuzzer: Fuzzer, meter: Meter) -> None:
    raw = fuzzer.message()
    meter.run(lambda: decode(raw), repr(raw[:300]))


def _check(fuzzer: Fuzzer, meter: Meter) -> None:
    rules, text = fuzzer.checks(), fuzzer.answer()
    # as stored by an earlier version: without the look at the door
    checks = Checks.model_construct(**{**Checks().model_dump(), **rules})
    meter.run(lambda: failures(checks, text), json.dumps(rules)[:300])


if __name__ == "__main__":
    main()
