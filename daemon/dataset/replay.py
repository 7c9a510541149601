"""Ordinary prompts with the base model's own answers: replay against forgetting, and drift pairs to measure it.

Each answer is sampled once per base model and cached on disk. A hash of the prompt decides whether it is for drift, so
no run ever trains on a drift pair.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from connectors.guidance import SYSTEM_ROLES, with_guidance
from connectors.messages import Checks, FlaggedResponse
from connectors.messages.shapes import is_blank
from daemon.artifacts.examples import Example, ExampleKind
from daemon.artifacts.jsonl import PromptLine, read_lines, source_of
from daemon.dataset.answers import Answer, Answers, Draw, GoesOn, always
from daemon.dataset.usable import Usable
from daemon.labels import LeftOut
from daemon.serving.fleet import Fleet
from daemon.text.rules import failures

Prompt = tuple[Mapping[str, str], ...]
"""A conversation without its answer."""

TEMPERATURE = 1.0
"""Answers are sampled, not greedy. On samples of the base model, the mean log-probability ratio is the divergence from
it. Greedy answers differ much from human texts, so their replay would not protect human-like texts from forgetting."""
DRIFT_SHARE = 8
"""One of this number of prompts is for drift."""
MAX_DRIFT_PAIRS = 24
"""Maximum number of measured drift pairs; further drift prompts take the places of those without a usable answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The system message of a flagged conversation ("" if it has none), with the words forbidden in its answers."""

    system: str
    forbidden: Checks

    @classmethod
    def of(cls, flagged: FlaggedResponse, others: Sequence[Checks] = ()) -> Self:
        """Take only the forbidden words (such as a secret): they are wrong in answers to other questions, too.

        Args:
            others: Checks of other reports of the same answer.
        """
        first = flagged.messages[0]
        every = [*others] if flagged.checks is None else [flagged.checks, *others]
        return cls(
            system=first.text if first.role in SYSTEM_ROLES else "",
            forbidden=Checks(must_not_contain=[text for one in every for text in one.must_not_contain]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The ordinary pairs of one run. `missing` are the prompts without an answer yet."""

    replay: tuple[Example, ...]
    drift: tuple[Example, ...]
    missing: tuple[Prompt, ...]
    left_out: Mapping[str, Mapping[LeftOut, int]] = field(default_factory=dict)
    """Prompts whose answer is refused, empty or not usable, by kind and reason. Others took their places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A kept answer. `forbidden`: it has words that are forbidden in its context."""

    answer: Answer
    forbidden: bool = False


class ReplaySource:
    """The ordinary prompts and the cached answers of the base model.

    Every second replay pair gets the guidance, as in serving. Otherwise training without guidance could change guided
    answers to ordinary requests. The guidance is no hint here, because ordinary pairs contain no mistake.

    A share of the pairs gets the system messages of the flagged conversations. Otherwise the model could learn to
    refuse every request with such a message.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        base_name: str,
        prompts: Path | None,
        max_tokens: int,
        cache_dir: Path,
        guidance: str,
        in_context: float,
    ) -> None:
        self._fleet = fleet
        self._base_name = base_name
        self._prompts = prompts
        self._max_tokens = max_tokens
        self._cache_dir = cache_dir
        self._guidance = guidance
        self._in_context = in_context
        self._wanted: list[Draw] = []
        self._answers: Answers | None = None

    def pairs(
        self,
        base_fingerprint: str,
        *,
        count: int,
        seed: int,
        contexts: Sequence[Context] = (),
        usable: Usable | None = None,
    ) -> Pairs:
        """At most `count` replay pairs, sampled with `seed`, and the drift pairs. `usable` None: all texts are.

        The share of replay pairs with a system message is the share of such `contexts`, but at most `in_context`.
        Answers with words forbidden in their context are skipped.

        Raises:
            ConfigError: if the prompts cannot be read.
        """
        prompts = sorted(read_prompts(self._prompts), key=_key)
        drift = [prompt for prompt in prompts if is_drift(prompt)]
        pool = [prompt for prompt in prompts if not is_drift(prompt)]
        draw = random.Random(seed)  # noqa: S311 - must be repeatable, not secret
        draw.shuffle(pool)
        pool, forbidden = _with_contexts(pool, contexts, at_most=self._in_context, draw=draw)
        self._wanted = [self._draw(prompt) for prompt in (*prompts, *pool)]
        answers = self._answers = self._of(base_fingerprint)

        def known(prompt: Prompt) -> _Known | None:
            answer, checks = answers.known(self._draw(prompt)), forbidden.get(_key(prompt))
            if answer is None:
                return None
            judged = checks is not None and not is_blank(answer.text)
            return _Known(answer=answer, forbidden=judged and bool(failures(checks or (), answer.text)))

        replayed = _Collector(ExampleKind.REPLAY, known, usable).collect(pool, count)
        drifted = _Collector(ExampleKind.DRIFT, known, usable).collect(drift, MAX_DRIFT_PAIRS)
        return Pairs(
            replay=every_second_guided(replayed.pairs, self._guidance),
            drift=tuple(drifted.pairs),
            missing=(*replayed.missing, *drifted.missing),
            left_out={one.kind.value: one.left_out for one in (replayed, drifted) if one.left_out},
        )

    def ask(self, base_fingerprint: str, prompts: Sequence[Prompt], *, goes_on: GoesOn = always) -> int:
        """Let the base model answer the prompts; see `Answers.ask`."""
        return self._of(base_fingerprint).ask([self._draw(prompt) for prompt in prompts], goes_on=goes_on)

    def forget_unused(self) -> None:
        """Delete answers not used by the last `pairs`: they may belong to the system message of an erased report."""
        if self._answers is not None:
            self._answers.forget_others(self._wanted)

    def _of(self, base_fingerprint: str) -> Answers:
        return Answers(
            fleet=self._fleet, base_name=self._base_name, folder=self._cache_dir, fingerprint=base_fingerprint
        )

    def _draw(self, prompt: Prompt) -> Draw:
        return Draw(messages=prompt, identity=_key(prompt), max_tokens=self._max_tokens, temperature=TEMPERATURE)


def _with_contexts(
    prompts: Sequence[Prompt], contexts: Sequence[Context], *, at_most: float, draw: random.Random
) -> tuple[list[Prompt], dict[str, Checks]]:
    """The prompts, some of them with the system message of a context, and the forbidden words by prompt key."""
    with_system = [context for context in contexts if context.system]
    share = min(at_most, len(with_system) / max(len(contexts), 1))
    placed, forbidden = list(prompts), {}
    for number, prompt in enumerate(prompts):
        if draw.random() < share and len(prompt) == 1:
            context = draw.choice(with_system)
            placed[number] = ({"role": "system", "content": context.system}, *prompt)
            forbidden[_key(placed[number])] = context.forbidden
    return placed, forbidden


class _Collector:
    """Takes pairs in the order of their prompts. Prompts without a usable answer are skipped and counted."""

    def __init__(self, kind: ExampleKind, known: Callable[[Prompt], _Known | None], usable: Usable | None) -> None:
        self.kind = kind
        self.pairs: list[Example] = []
        self.missing: list[Prompt] = []
        self.left_out: Counter[LeftOut] = Counter()
        self._known = known
        self._usable = usable

    def collect(self, prompts: Sequence[Prompt], count: int) -> Self:
        """At most `count` pairs and prompts without an answer yet."""
        if count and self._usable is not None:
            self._usable.read_prompts(prompts, self.kind)
        self._take(prompts, count)
        while not self.missing and self._usable is not None and self._usable.read_examples(self.pairs):
            self._take(prompts, count)
        return self

    def _take(self, prompts: Sequence[Prompt], count: int) -> None:
        self.pairs, self.missing = [], []
        self.left_out.clear()
        for prompt in prompts:
            if len(self.pairs) + len(self.missing) >= count:
                break
            known = self._known(prompt)
            why_not = self._why_not(prompt, known)
            if why_not is not None:
                self.left_out[why_not] += 1
            elif known is None:
                self.missing.append(prompt)
            elif not known.forbidden:
                self.pairs.append(self._pair(prompt, known.answer))

    def _why_not(self, prompt: Prompt, known: _Known | None) -> LeftOut | None:
        if self._usable is not None and (refusal := self._usable.why_not_prompt(prompt, self.kind)) is not None:
            return refusal.reason
        if known is None or known.forbidden:
            return None
        if known.answer.refusal is not None:
            return LeftOut.SERVER_REFUSES
        if is_blank(known.answer.text):
            return LeftOut.EMPTY
        refusal = None if self._usable is None else self._usable.why_not_example(self._pair(prompt, known.answer))
        return None if refusal is None else refusal.reason

    def _pair(self, prompt: Prompt, answer: Answer) -> Example:
        return Example(messages=prompt, completion=answer.text, kind=self.kind, ends=answer.ends)


def every_second_guided(pairs: Sequence[Example], guidance: str) -> tuple[Example, ...]:
    """The pairs, every second one with the guidance in front, as in serving."""
    return tuple(
        replace(pair, messages=tuple(with_guidance(pair.messages, guidance))) if number % 2 else pair
        for number, pair in enumerate(pairs)
    )


def is_drift(prompt: Prompt) -> bool:
    return int(_key(prompt)[:2], 16) % DRIFT_SHARE == 0


def read_prompts(path: Path | None) -> list[Prompt]:
    """The conversations of a JSONL file, without duplicates. Lines: {"prompt": ..., "system": ...}, `system` optional.

    If `path` is None, the set shipped with erratad is used. It has ordinary requests, and harmless requests that sound
    harmful: a model trained only on refusals would refuse them (XSTest, arXiv 2308.01263).

    Raises:
        ConfigError: if a line is invalid; the message gives file, line and field.
    """
    source = source_of(path, "replay_prompts.jsonl")
    lines = read_lines("dataset.replay_prompts", source, PromptLine, what="prompt")
    return list({_key(line.messages): line.messages for _, line in lines}.values())


def _key(prompt: Prompt) -> str:
    return hashlib.sha256("\n".join(message["content"] for message in prompt).encode()).hexdigest()
