"""Which examples, prompts and reports the trainer and the servers can use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from connectors.guidance import with_guidance
from daemon.artifacts.examples import Example, ExampleKind
from daemon.chat.reader import Question
from daemon.chat.readings import Asked, Limit, Refusal, Session
from daemon.records import Report, conversation

GUIDED = (ExampleKind.REPLAY, ExampleKind.GOLDEN)
"""Kinds whose pairs get the guidance, or not, by their place among the others: both forms must be usable."""


class Usable:
    """Asks about texts of one run. A text that was not read yet counts as usable: `read` them, then look again.

    Training examples must fit `training`. Texts that only servers get (held-out and drift) must fit `serving`.
    """

    def __init__(self, session: Session, *, training: Limit, serving: Limit, guidance: str) -> None:
        self._session = session
        self._training = training
        self._serving = serving
        self._guidance = guidance

    def read_examples(self, examples: Iterable[Example]) -> bool:
        """Whether one of those that were not read before cannot be used."""
        return self._session.read(asked for example in examples for asked in self._example(example))

    def read_reports(self, reports: Iterable[Report]) -> bool:
        return self._session.read(asked for report in reports for asked in self._report(report))

    def read_prompts(self, prompts: Iterable[Sequence[Mapping[str, Any]]], kind: ExampleKind) -> bool:
        return self._session.read(asked for prompt in prompts for asked in self._prompt(prompt, kind))

    def why_not_example(self, example: Example) -> Refusal | None:
        return self._session.refusal(self._example(example))

    def why_not_held_out(self, report: Report) -> Refusal | None:
        return self._session.refusal(self._report(report))

    def why_not_prompt(self, prompt: Sequence[Mapping[str, Any]], kind: ExampleKind) -> Refusal | None:
        """Whether the base model can be asked, and its answer be used."""
        return self._session.refusal(self._prompt(prompt, kind))

    def _example(self, example: Example) -> list[Asked]:
        limit = self._serving if example.kind is ExampleKind.DRIFT else self._training
        forms = self._forms(example.messages) if example.kind in GUIDED else [tuple(example.messages)]
        if example.teacher_messages is not None:
            forms.append(tuple(example.teacher_messages))
        return [
            Asked(
                Question(
                    messages=messages, completion=example.completion, ends=example.ends, by_model=example.by_model
                ),
                limit,
            )
            for messages in forms
        ]

    def _report(self, report: Report) -> list[Asked]:
        return [Asked(Question(messages=messages), self._serving) for messages in self._forms(conversation(report))]

    def _prompt(self, prompt: Sequence[Mapping[str, Any]], kind: ExampleKind) -> list[Asked]:
        limit = self._serving if kind is ExampleKind.DRIFT else min(self._training, self._serving)
        forms = self._forms(prompt) if kind in GUIDED else [tuple(prompt)]
        return [Asked(Question(messages=messages), limit) for messages in forms]

    def _forms(self, messages: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], ...]]:
        """Without and with the guidance."""
        plain = tuple(messages)
        return [plain, tuple(with_guidance(plain, self._guidance))] if self._guidance else [plain]
