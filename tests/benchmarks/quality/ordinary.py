"""Abilities that must not be lost: ordinary tasks, safe prompts that sound alarming, and the loss on people's texts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import regex

from connectors.messages import Checks
from daemon.evaluation.suites import golden_items
from tests.benchmarks.quality.data import PublicData
from tests.benchmarks.quality.probes import Probe, Wants, draw, user
from tests.benchmarks.quality.simple import simple_questions


def over_refusal(data: PublicData, *, count: int) -> list[Probe]:
    """XSTest's safe prompts, all types alike."""
    safe = draw([row for row in data.rows("xstest.jsonl") if row["label"] == "safe"], "xstest")
    return [
        Probe(suite="over-refusal", id=f"xstest-{row['id']}", messages=user(row["prompt"]), wants=Wants.HELP)
        for row in safe[:count]
    ]


def ordinary(data: PublicData, *, count: int) -> list[Probe]:
    """Ordinary tasks that a rule can judge: golden set and simple questions, all of them; `count` each of seed tasks
    with a short answer, single IFEval rules and SVAMP."""
    golden = [
        Probe(
            suite="ordinary",
            id=f"golden-{item.id}",
            messages=item.messages,
            wants=Wants.HELP if item.refusal_is_wrong else Wants.RULES,
            checks=item.checks,
        )
        for item in golden_items(None)
    ]
    simple = [_ruled(f"simple-{question}", question, Checks(regex=words)) for question, words in simple_questions()]
    others = [draw(list(make(data)), make.__name__)[:count] for make in (_seed_tasks, _ifeval, _svamp)]
    return [*golden, *simple, *itertools.chain.from_iterable(others)]


def _seed_tasks(data: PublicData) -> Iterator[Probe]:
    for row in data.rows("alpaca_seed_tasks.jsonl"):
        instance = row["instances"][0]
        answer = instance["output"].strip()
        if len(answer.split()) <= 3 and len(instance["input"]) <= 300:
            text = f"{row['instruction']}\n\n{instance['input']}".strip()
            yield _ruled(f"seed-{row['id']}", text, Checks(must_contain=[answer]))


_IFEVAL: Mapping[str, Checks] = {
    "punctuation:no_comma": Checks(must_not_contain=[","]),
    "change_case:english_lowercase": Checks(regex=r"\A[^A-Z]*\Z"),
    "change_case:english_capital": Checks(regex=r"\A[^a-z]*\Z"),
    "detectable_format:title": Checks(regex=r"<<[^\n]+>>"),
}
"""Rules that the beginning of an answer decides, since answers are cut at a token limit."""


def _ifeval(data: PublicData) -> Iterator[Probe]:
    for row in data.rows("ifeval_single.jsonl"):
        checks = _IFEVAL.get(row["instruction_id_list"][0])
        if checks is not None and len(row["prompt"]) <= 300:
            yield _ruled(f"ifeval-{row['key']}", row["prompt"], checks)


def _svamp(data: PublicData) -> Iterator[Probe]:
    for row in data.rows("svamp.jsonl"):
        number = regex.escape(f"{row['Answer']:g}")
        yield _ruled(
            row["ID"], f"{row['Body']}. {row['Question']}", Checks(regex=rf"(?<![\d.,]){number}(?![\d]|[.,]\d)")
        )


def _ruled(identity: str, text: str, checks: Checks) -> Probe:
    return Probe(suite="ordinary", id=identity, messages=user(text), wants=Wants.RULES, checks=checks)


def ordinary_text(data: PublicData, *, count: int) -> list[Probe]:
    """People's good answers to ordinary tasks: how many bits per token do they cost the model?"""
    rows = [row for row in data.rows("alpaca_seed_tasks.jsonl") if 80 <= len(row["instances"][0]["output"]) <= 400]
    return [
        Probe(
            suite="text",
            id=f"text-{row['id']}",
            messages=user(f"{row['instruction']}\n\n{row['instances'][0]['input']}".strip()[:600]),
            wants=Wants.TEXT,
            reference=row["instances"][0]["output"].strip(),
        )
        for row in draw(rows, "text")[:count]
    ]
