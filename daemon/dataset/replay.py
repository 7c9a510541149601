"""Ordinary prompts with the base model's own answers: replay against forgetting, and drift pairs to measure it.

An answer is asked for once per base model, drawn from its distribution, and kept on disk. A hash fixes which prompts
are for drift, so that no drift pair is ever trained on, by whichever run.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from connectors.guidance import SYSTEM_ROLES, with_guidance
from connectors.messages import Checks, FlaggedResponse
from daemon.artifacts.examples import Example, ExampleKind
from daemon.artifacts.files import write_atomically
from daemon.artifacts.jsonl import PromptLine, read_lines, source_of
from daemon.serving.fleet import Fleet
from daemon.text.rules import failures

Prompt = tuple[Mapping[str, str], ...]
"""A conversation that waits for an answer."""

CONCURRENCY = 8
TEMPERATURE = 1.0
"""On answers drawn from a model's own distribution, the mean of log-probability ratios is the divergence from it. Its
likeliest answers alone are far from people's texts, and holding a model to them leaves it free to forget those."""
DRIFT_SHARE = 8
"""One prompt in this many is for drift ..."""
MAX_DRIFT_PAIRS = 24
"""... but no more than this many are measured; the rest is left unused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The system message of a flagged conversation ("": it has none), and what no answer may say under it."""

    system: str
    forbidden: Checks

    @classmethod
    def of(cls, flagged: FlaggedResponse) -> Self:
        """Of its rules, only forbidden words hold for other questions, too: a secret in the system message."""
        first = flagged.messages[0]
        return cls(
            system=first.content if first.role in SYSTEM_ROLES else "",
            forbidden=Checks(must_not_contain=flagged.checks.must_not_contain if flagged.checks else []),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The ordinary pairs of one run; complete once `missing` (prompts without an answer yet) is empty."""

    replay: tuple[Example, ...]
    drift: tuple[Example, ...]
    missing: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    text: str
    ends: bool


class Replay:
    """The ordinary prompts and the cache of answers.

    Every second replay pair stands under the guidance, as it is served: what is trained without guidance would
    otherwise change guided answers to ordinary requests unchecked. It is no hint: an ordinary pair holds no mistake.

    A share stands under the system messages of the flagged conversations: what is learned is otherwise that under such
    a message every request is refused.
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
        self._wanted: set[Path] = set()

    def pairs(self, base_fingerprint: str, *, count: int, seed: int, contexts: Sequence[Context] = ()) -> Pairs:
        """`count` replay pairs (fewer where the prompts run out) drawn by `seed`, and the drift pairs.

        As large a share of the replay as of the `contexts` has a system message, up to `in_context`. An answer that
        says what is forbidden there is passed over.

        Raises:
            ConfigError: when the prompts cannot be read.
        """
        prompts = sorted(read_prompts(self._prompts), key=_key)
        drift = [prompt for prompt in prompts if is_drift(prompt)][:MAX_DRIFT_PAIRS]
        pool = [prompt for prompt in prompts if not is_drift(prompt)]
        draw = random.Random(seed)  # noqa: S311 - has to be repeatable, not secret
        draw.shuffle(pool)
        pool, forbidden = _placed(pool, contexts, at_most=self._in_context, draw=draw)
        self._wanted = {self._entry(base_fingerprint, prompt) for prompt in (*prompts, *pool)}

        def known(prompt: Prompt) -> _Reply | None:
            reply = self._cached(base_fingerprint, prompt)
            checks = forbidden.get(_key(prompt))
            return replace(reply, text="") if reply and checks and failures(checks, reply.text) else reply

        replay_pairs, replay_missing = _collect(pool, known, kind=ExampleKind.REPLAY, count=count)
        drift_pairs, drift_missing = _collect(drift, known, kind=ExampleKind.DRIFT, count=len(drift))
        return Pairs(
            replay=every_second_guided(replay_pairs, self._guidance),
            drift=drift_pairs,
            missing=(*replay_missing, *drift_missing),
        )

    def ask(self, base_fingerprint: str, prompts: Sequence[Prompt]) -> None:
        """Have the base model answer the prompts and keep the answers; those got before an error stay.

        Raises:
            EndpointError, ServingError: when a server does not answer.
        """

        def ask_one(prompt: Prompt) -> None:
            reply = self._fleet.any().chat(
                self._base_name,
                prompt,
                max_tokens=self._max_tokens,
                temperature=TEMPERATURE,
                seed=int(_key(prompt)[:8], 16),
            )
            entry = {"messages": prompt, "text": reply.text, "ends": not reply.truncated}
            write_atomically(self._entry(base_fingerprint, prompt), json.dumps(entry, ensure_ascii=False).encode())

        with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="replay") as pool:
            list(pool.map(ask_one, prompts))

    def forget_unused(self) -> None:
        """Remove the answers that the last `pairs` did not want: they may stand under an erased report's message."""
        for path in self._cache_dir.glob("*/*.json"):
            if path not in self._wanted:
                path.unlink()

    def _cached(self, base_fingerprint: str, prompt: Prompt) -> _Reply | None:
        try:
            entry = json.loads(self._entry(base_fingerprint, prompt).read_bytes())
        except FileNotFoundError:
            return None
        return _Reply(text=entry["text"].strip(), ends=entry["ends"])

    def _entry(self, base_fingerprint: str, prompt: Prompt) -> Path:
        key = hashlib.sha256(f"{TEMPERATURE:g} {self._max_tokens}\n{_key(prompt)}".encode()).hexdigest()
        return self._cache_dir / base_fingerprint[:16] / f"{key}.json"


def _placed(
    prompts: Sequence[Prompt], contexts: Sequence[Context], *, at_most: float, draw: random.Random
) -> tuple[list[Prompt], dict[str, Checks]]:
    """The prompts, some of them under the system message of a context; and what is forbidden there, by prompt key."""
    speaking = [context for context in contexts if context.system]
    share = min(at_most, len(speaking) / max(len(contexts), 1))
    placed, forbidden = list(prompts), {}
    for number, prompt in enumerate(prompts):
        if draw.random() < share and len(prompt) == 1:
            context = draw.choice(speaking)
            placed[number] = ({"role": "system", "content": context.system}, *prompt)
            forbidden[_key(placed[number])] = context.forbidden
    return placed, forbidden


def _collect(
    prompts: Iterable[Prompt], known: Callable[[Prompt], _Reply | None], *, kind: ExampleKind, count: int
) -> tuple[tuple[Example, ...], tuple[Prompt, ...]]:
    """The first `count` pairs, and the prompts among them that have no answer yet; empty answers are passed over."""
    examples: list[Example] = []
    missing: list[Prompt] = []
    for prompt in prompts:
        if len(examples) + len(missing) >= count:
            break
        reply = known(prompt)
        if reply is None:
            missing.append(prompt)
        elif reply.text:
            examples.append(Example(messages=prompt, completion=reply.text, kind=kind, ends=reply.ends))
    return tuple(examples), tuple(missing)


def every_second_guided(pairs: Sequence[Example], guidance: str) -> tuple[Example, ...]:
    """Half of ordinary pairs as users without guidance see them, half as the model is served."""
    return tuple(
        replace(pair, messages=tuple(with_guidance(pair.messages, guidance))) if number % 2 else pair
        for number, pair in enumerate(pairs)
    )


def is_drift(prompt: Prompt) -> bool:
    return int(_key(prompt)[:2], 16) % DRIFT_SHARE == 0


def read_prompts(path: Path | None) -> list[Prompt]:
    """The conversations of a JSONL file of {"prompt": ..., "system": ...}, each once; `system` may be missing.

    None: the set shipped with erratad, ordinary requests and harmless ones that sound alarming: a model trained on
    refusals alone refuses those (XSTest, arXiv 2308.01263).

    Raises:
        ConfigError: naming the file, the line and the field.
    """
    source = source_of(path, "replay_prompts.jsonl")
    lines = read_lines("dataset.replay_prompts", source, PromptLine, what="prompt")
    return list({_key(line.messages): line.messages for _, line in lines}.values())


def _key(prompt: Prompt) -> str:
    return hashlib.sha256("\n".join(message["content"] for message in prompt).encode()).hexdigest()
