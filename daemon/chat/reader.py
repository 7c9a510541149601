"""Asks a child process with the tokenizer how the trainer reads conversations. The daemon itself loads no tokenizer."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict

from daemon.config.chat import ChatConfig
from daemon.errors import ChatReaderError, ConfigError, StoppedError
from daemon.labels import LeftOut
from daemon.runtime.child import describe, environment

if TYPE_CHECKING:  # the child imports this module, and would load the store with it
    from daemon.runtime.stage import Life

CHILD_THREADS = 1
POLL_S = 1.0
TIMEOUT_S = 600.0
"""For one answer of the child: it reads about a thousand conversations per second."""
BATCH = 500
"""Conversations per request, so that a long job gives heartbeats."""
TAIL_CHARACTERS = 600


class Question(BaseModel):
    """A conversation, and the answer to train (None: the prompt alone is measured).

    `by_model`: the model wrote the completion, so it may begin with thoughts whose opening tag stands in the prompt.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: tuple[Mapping[str, Any], ...]
    completion: str | None = None
    ends: bool = True
    by_model: bool = False


class Reading(BaseModel):
    """Number of tokens of prompt and target; or the reason why the trainer cannot use it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int = 0
    left_out: LeftOut | None = None
    detail: str = ""


class ReaderJob(BaseModel):
    """The first line for the child."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_path: Path
    chat: ChatConfig
    trust_remote_code: bool = False


class Reader:
    """A running child. `facts` are those of `daemon.chat.facts`. `life` gets a heartbeat while the child works.

    Raises (also from `read`):
        ConfigError: if the model's tokenizer or chat template is unusable.
        ChatReaderError: if the child fails.
        StoppedError: if the daemon stops meanwhile.
    """

    facts: Any

    def __init__(
        self, *, model_path: Path, chat: ChatConfig, trust_remote_code: bool = False, life: Life | None = None
    ) -> None:
        self._job = ReaderJob(
            model_path=model_path.absolute(), chat=chat.absolute(), trust_remote_code=trust_remote_code
        )
        self._life = life

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self._errors = opened.enter_context(tempfile.TemporaryFile())
            self._child = opened.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "daemon.chat.child"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    env=environment(CHILD_THREADS),
                    start_new_session=True,  # Ctrl-C reaches only the daemon, which then stops the child
                )
            )
            opened.callback(self._end)
            self.facts = self._begin()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _end(self) -> None:
        self._child.kill()
        if self._child.stdin is not None:
            with suppress(OSError):  # a line that the child did not take
                self._child.stdin.close()

    def read(self, questions: Sequence[Question], *, max_tokens: int) -> list[Reading]:
        """One reading per question, in order. `max_tokens`: the longest prompt and target together."""
        readings: list[Reading] = []
        for start in range(0, len(questions), BATCH):
            batch = [question.model_dump(mode="json") for question in questions[start : start + BATCH]]
            answer = self._ask(json.dumps({"max_tokens": max_tokens, "questions": batch}).encode())
            readings += [Reading.model_validate(one) for one in answer["readings"]]
        return readings

    def _begin(self) -> Any:
        answer = self._ask(self._job.model_dump_json().encode())
        if "refused" in answer:
            raise ConfigError(answer["refused"])
        return answer

    def _ask(self, line: bytes) -> Any:
        stdin, stdout = self._child.stdin, self._child.stdout
        if stdin is None or stdout is None:
            raise AssertionError("the child has pipes")
        try:
            stdin.write(line + b"\n")
            stdin.flush()
        except OSError as exc:
            raise self._failed() from exc
        deadline = time.monotonic() + TIMEOUT_S
        while not select.select([stdout], [], [], POLL_S)[0]:
            if self._life is not None:
                self._life.heartbeat()
                if self._life.stopping:
                    raise StoppedError("the daemon stops while conversations are read; the next start reads them again")
            if time.monotonic() > deadline:
                raise ChatReaderError(f"no conversation was read within {TIMEOUT_S:g} s")
        answer = stdout.readline()
        if not answer.endswith(b"\n"):
            raise self._failed()
        return json.loads(answer)

    def _failed(self) -> ChatReaderError:
        code = self._child.wait()
        self._errors.seek(0)
        tail = self._errors.read().decode(errors="replace")[-TAIL_CHARACTERS:].strip()
        return ChatReaderError(f"the process that reads conversations {describe(code)}: {tail or 'no error text'}")
