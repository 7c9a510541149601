"""The child with the tokenizer: `python -m daemon.chat.child` answers each line of standard input with a line.

The first line is a `ReaderJob`. Its answer holds the facts about the model, or {"refused": reason}. Each further line
holds questions, and is answered with their readings.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from daemon.chat.facts import ChatFacts, Prompt
from daemon.chat.probes import PROBES
from daemon.chat.reader import Question, ReaderJob, Reading
from daemon.chat.template import ChatTemplate
from daemon.errors import ConfigError, UnrenderableError
from daemon.labels import LeftOut
from daemon.runtime.child import die_with_the_daemon

DETAIL_CHARACTERS = 300


def main() -> int:
    die_with_the_daemon()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not write into an answer
    lines = iter(sys.stdin.buffer.readline, b"")
    job = ReaderJob.model_validate_json(next(lines))
    try:
        template = ChatTemplate(_tokenizer(job), job.chat)
    except ConfigError as exc:
        _answer(answers, {"refused": str(exc)})
        return 0
    _answer(answers, facts_of(template).model_dump(mode="json"))
    for line in lines:
        asked = json.loads(line)
        questions = [Question.model_validate(one) for one in asked["questions"]]
        readings = [reading(template, question, max_tokens=asked["max_tokens"]) for question in questions]
        _answer(answers, {"readings": [one.model_dump(mode="json") for one in readings]})
    return 0


def _tokenizer(job: ReaderJob) -> Any:
    if not job.trust_remote_code:  # the model's own code may need torch
        # importlib's mark of a module that is not there: torch takes seconds and 400 MB, and no tokenizer needs it
        sys.modules["torch"] = None  # type: ignore[assignment]
        os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # else it says that PyTorch was not found
    from daemon.chat.tokenizer import load_tokenizer  # noqa: PLC0415 - it imports transformers, which looks for torch

    return load_tokenizer(job.model_path, trust_remote_code=job.trust_remote_code)


def _answer(answers: Any, value: Any) -> None:
    answers.write(json.dumps(value).encode() + b"\n")
    answers.flush()


def facts_of(template: ChatTemplate) -> ChatFacts:
    """The facts about the model. A probe conversation that the template refuses is left out."""
    probes = []
    for name, messages in PROBES.items():
        try:
            ids = template.prompt_ids(messages)
        except UnrenderableError:
            continue
        probes.append(Prompt(name=name, messages=tuple(template.preparation.messages(messages)), ids=ids))
    return ChatFacts(
        preparation=template.preparation,
        probes=tuple(probes),
        end=template.end,
        end_text=template.end_text,
        dated=template.dated,
    )


def reading(template: ChatTemplate, question: Question, *, max_tokens: int) -> Reading:
    """How the trainer reads one question."""
    try:
        if question.completion is None:
            count = len(template.prompt_ids(question.messages))
        else:
            count = sum(
                map(
                    len,
                    template.encode(
                        question.messages, question.completion, ends=question.ends, by_model=question.by_model
                    ),
                )
            )
    except UnrenderableError as exc:
        return Reading(left_out=LeftOut(exc.reason), detail=str(exc)[:DETAIL_CHARACTERS])
    if count > max_tokens:
        return Reading(tokens=count, left_out=LeftOut.TOO_LONG, detail=f"{count} tokens, at most {max_tokens} fit")
    return Reading(tokens=count)


if __name__ == "__main__":
    sys.exit(main())
