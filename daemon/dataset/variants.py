"""Other wordings of flagged questions, written by a model for clusters of few reports, and what is used of them.

A lone report is learnt by heart. Its question in other words, before the same approved correction, says what matters
in it. Only that: an analysis speaks of an answer, and nobody gave one to the other wording. What a model wrote is kept
on disk by report and request, so that a rerun asks nothing and gives the same files.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import structlog

from connectors.chat import EndpointError
from daemon.artifacts.files import write_atomically
from daemon.config import Config
from daemon.config.dataset import DatasetConfig
from daemon.dataset.recipes import in_other_words
from daemon.dataset.selection import Chosen, Selection
from daemon.dataset.variant_checks import wording_fault, wordings
from daemon.labels import VariantOutcome
from daemon.reflection.analyst import Analyst
from daemon.reflection.prompts import Prompts
from daemon.text.similarity import Comparison, Words, cosines, reaches, resembling

log = structlog.get_logger(__name__)

MAX_QUESTION_CHARACTERS = 800
"""A longer question is mostly a text to work on, which no other wording keeps."""
MAX_ATTEMPTS = 3
"""Requests for one report's variants in one run; a report without an answer by then has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for one report, and where the answer is kept."""

    report_id: str
    messages: Sequence[Mapping[str, str]]
    path: Path


class Variants:
    """`missing`, `ask` until nothing is, then `added`; `forget_unused` once the run's dataset is written."""

    def __init__(
        self, *, analyst: Analyst, prompts: Prompts, config: DatasetConfig, comparison: Comparison, cache_dir: Path
    ) -> None:
        self._analyst = analyst
        self._prompts = prompts
        self._config = config
        self._comparison = comparison
        self._cache_dir = cache_dir
        self._failures: Counter[Path] = Counter()
        self._wanted: set[Path] = set()

    def missing(self, selection: Selection) -> list[Request]:
        """Requests without an answer that have not failed too often in this run."""
        requests = [self._request(chosen) for chosen in self._lone(selection)]
        self._wanted.update(one.path for one in requests)
        return [one for one in requests if not one.path.exists() and self._failures[one.path] < MAX_ATTEMPTS]

    def ask(self, requests: Sequence[Request]) -> int:
        """Put the requests to the model at the same time; returns how many were answered.

        Raises:
            ServingError: when no server is ready.
        """
        self._analyst.ready()
        with ThreadPoolExecutor(max_workers=len(requests), thread_name_prefix="variants") as pool:
            return sum(pool.map(self._ask, requests))

    def _ask(self, request: Request) -> bool:
        config = self._config.variants
        try:
            reply = self._analyst.ask(request.messages, max_tokens=config.max_tokens, temperature=config.temperature)
        except EndpointError as exc:
            self._failures[request.path] += 1 if exc.transient else MAX_ATTEMPTS
            log.warning("no variants", report_id=request.report_id, reason=str(exc))
            return False
        entry = {
            "report_id": request.report_id,
            "template": self._prompts.variants_name,
            "written_by": reply.model,
            "text": reply.text,
            "truncated": reply.truncated,
        }
        write_atomically(request.path, json.dumps(entry, ensure_ascii=False).encode())
        return True

    def added(self, selection: Selection) -> Selection:
        """The selection with the variants that pass the checks."""
        lone = self._lone(selection)
        written = {chosen.report.id: self._written(chosen) for chosen in lone}
        clusters: dict[int, list[Chosen]] = defaultdict(list)
        for chosen in lone:
            clusters[chosen.cluster.id].append(chosen)
        picked = _Picked(
            selection, self._config, self._comparison, [one for lines in written.values() for one in lines]
        )
        for members in clusters.values():
            picked.pick([(chosen, written[chosen.report.id]) for chosen in members])
        return replace(
            selection,
            train=tuple(picked.with_variants(chosen) for chosen in selection.train),
            variants=dict(picked.outcomes),
        )

    def forget_unused(self) -> None:
        """Remove what the run did not want, of erased reports, say; what failed in it may be asked for again."""
        if self._wanted:
            for path in self._cache_dir.glob("*.json"):
                if path not in self._wanted:
                    path.unlink()
        self._wanted.clear()
        self._failures.clear()

    def _lone(self, selection: Selection) -> list[Chosen]:
        """Members of training clusters with few of them, whose correction follows the plain question."""
        config = self._config.variants
        members = Counter(chosen.cluster.id for chosen in selection.train)
        return [
            chosen
            for chosen in selection.train
            if members[chosen.cluster.id] < config.min_members
            and len(chosen.report.prompt_text) <= MAX_QUESTION_CHARACTERS
            and in_other_words(chosen.report, chosen.examples, "") is not None
        ]

    def _request(self, chosen: Chosen) -> Request:
        config = self._config.variants
        report = chosen.report
        messages = self._prompts.variants(report.flagged, report.prompt_text, count=config.per_cluster)
        asked = json.dumps([report.id, self._analyst.kind, messages, config.max_tokens, config.temperature])
        path = self._cache_dir / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"
        return Request(report_id=report.id, messages=messages, path=path)

    def _written(self, chosen: Chosen) -> list[str]:
        try:
            entry: dict[str, Any] = json.loads(self._request(chosen).path.read_bytes())
        except FileNotFoundError:
            return []
        return wordings(entry["text"], truncated=entry["truncated"])


class _Picked:
    """Which wordings are used, and what became of the others."""

    def __init__(
        self, selection: Selection, config: DatasetConfig, comparison: Comparison, written: Sequence[str]
    ) -> None:
        self._config = config
        self._questions = [chosen.report.prompt_text for chosen in selection.train]
        held_out = [chosen.report.prompt_text for chosen in selection.holdout]
        leaks = resembling(written, held_out, comparison=comparison, similarity=config.same_kind)
        self._leaks = {wording for wording, leak in zip(written, leaks, strict=True) if leak}
        self._used: dict[str, list[str]] = defaultdict(list)
        self.outcomes: Counter[VariantOutcome] = Counter()

    def pick(self, members: Sequence[tuple[Chosen, Sequence[str]]]) -> None:
        """Take from each member of one cluster in turn, up to `per_cluster` in all."""
        used = 0
        for chosen, wording in _in_turn(members):
            outcome = self._judged(chosen, wording, used)
            self.outcomes[outcome] += 1
            if outcome is VariantOutcome.USED:
                used += 1
                self._used[chosen.report.id].append(wording)
                self._questions.append(wording)

    def with_variants(self, chosen: Chosen) -> Chosen:
        found = (in_other_words(chosen.report, chosen.examples, one) for one in self._used[chosen.report.id])
        return replace(chosen, examples=(*chosen.examples, *(example for example in found if example is not None)))

    def _judged(self, chosen: Chosen, wording: str, used: int) -> VariantOutcome:
        fault = wording_fault(
            wording,
            chosen.report.prompt_text,
            correction=chosen.lesson.correction or "",
            checks=chosen.report.checks,
        )
        if fault is not None:
            return fault
        if wording in self._leaks:
            return VariantOutcome.HELD_OUT_ALIKE
        by_wording = Words(function_words=True)
        alike = cosines(by_wording.vectors(self._questions), by_wording.vectors([wording])).max()
        if reaches(alike, self._config.near_duplicate):
            return VariantOutcome.NEAR_DUPLICATE
        return VariantOutcome.ABOVE_CAP if used >= self._config.variants.per_cluster else VariantOutcome.USED


def _in_turn(members: Sequence[tuple[Chosen, Sequence[str]]]) -> Iterator[tuple[Chosen, str]]:
    """The first wording of each member, then the second of each, and so on."""
    for row in zip_longest(*(lines for _, lines in members)):
        yield from ((chosen, line) for (chosen, _), line in zip(members, row, strict=True) if line is not None)


def variants_of(config: Config, analyst: Analyst | None, comparison: Comparison) -> Variants | None:
    """None where none are wanted."""
    if analyst is None or config.dataset.variants.per_cluster == 0:
        return None
    return Variants(
        analyst=analyst,
        prompts=Prompts(config.reflection.template),
        config=config.dataset,
        comparison=comparison,
        cache_dir=config.data_dir / "variants",
    )
