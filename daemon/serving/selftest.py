"""The self-test: every server must make the trainer's token ids of the same conversations, and end answers as it does.

While a ready server differs, nothing is trained: an adapter would learn on other prompts than those it is served. The
stage fails no request and changes no server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from connectors.chat import UNANSWERABLE, EndpointError
from connectors.vllm import VllmServer
from daemon import metrics
from daemon.chat.facts import ChatFacts, Prompt
from daemon.errors import ErratadError
from daemon.runtime.stage import Life, Step
from daemon.serving.fleet import Fleet

log = structlog.get_logger(__name__)

LOOK_S, RELAXED_S = 2.0, 5.0
"""Seconds between two looks: while a server is awaited, and while all are compared."""
SHOWN_BEFORE, SHOWN_FROM = 4, 8
"""Tokens shown around the first that differs."""
SHOWN_CHARACTERS = 80
CAUSES = (
    "Likely causes: --chat-template, --default-chat-template-kwargs or --chat-template-content-format of the server, "
    "another tokenizer, another version of vLLM. Start it with `erratad vllm`, or set the section `chat` as it serves"
)
DATED = "The template writes today's date, which the server's clock may tell otherwise: set chat.date"
OWN_ENCODING = (
    "/tokenize makes the trainer's ids, but chat completions do not: vLLM encodes this model (gpt-oss) itself, not by "
    "its template. Set chat.template to a file that writes what vLLM writes, and chat.date"
)
STATES = ("same", "different", "untested")
NOT_TESTED = "let a proxy pass POST /tokenize, or use the vLLM that erratad installs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Of one start (`epoch`) of a server. `text`: the difference, or why the server is untested."""

    epoch: str
    state: Literal["same", "different", "untested"]
    text: str = ""

    @property
    def differs(self) -> bool:
        return self.state == "different"


class SelfTestStage:
    """Compares each ready server once per start and day. `facts` are those of the trainer, today."""

    name = "selftest"
    idle_s = LOOK_S
    always_on: Literal[True] = True
    """A pause must not let a run train on other prompts."""

    def __init__(self, *, fleet: Fleet, base_name: str, facts: Callable[[], ChatFacts]) -> None:
        self._fleet = fleet
        self._base_name = base_name
        self._read_facts = facts
        self._day = ""
        self._facts: ChatFacts | None = None
        self._known: dict[VllmServer, Result] = {}

    def step(self, life: Life) -> Step:
        try:
            facts = self._facts_of_today()
        except (ErratadError, OSError) as exc:
            self._fleet.compared({})
            return Step(sentence=f"nothing is trained: the servers cannot be compared with the trainer: {exc}")
        results: dict[VllmServer, Result] = {}
        waiting = ""
        for server in self._fleet.servers:
            life.heartbeat()
            try:
                results[server] = self._result(server, facts)
            except EndpointError as exc:
                waiting = str(exc)
        self._known = results
        self.idle_s = LOOK_S if waiting or not results else RELAXED_S
        self._fleet.compared({one: found.text if found.differs else None for one, found in results.items()})
        return Step(sentence=_sentence(list(results.values()), waiting))

    def _facts_of_today(self) -> ChatFacts:
        """The facts. They are read again on a new day, because a template may show the date."""
        today = time.strftime("%Y-%m-%d")
        if self._facts is None or self._day != today:
            self._facts, self._day, self._known = self._read_facts(), today, {}
        return self._facts

    def _result(self, server: VllmServer, facts: ChatFacts) -> Result:
        """Raises EndpointError if the server is not ready, or fails for a reason that may pass."""
        epoch = server.state().epoch
        known = self._known.get(server)
        if known is not None and known.epoch == epoch:
            return known
        try:
            difference = compare(server, base_name=self._base_name, facts=facts)
        except EndpointError as exc:
            if exc.transient:
                raise
            log.warning("chat_untested", server=server.url, reason=str(exc))
            return Result(epoch=epoch, state="untested", text=f"{server.url} cannot be compared: {exc}; {NOT_TESTED}")
        if difference is None:
            return Result(epoch=epoch, state="same")
        log.error("chat_differs", server=server.url, difference=difference)
        return Result(epoch=epoch, state="different", text=f"{server.url} {difference}")


def _sentence(results: Sequence[Result], waiting: str) -> str:
    different, untested = ([one.text for one in results if one.state == state] for state in ("different", "untested"))
    for state in STATES:
        metrics.CHAT_SERVERS.labels(state=state).set(sum(one.state == state for one in results))
    equal = len(results) - len(different) - len(untested)
    parts = [
        *([f"nothing is trained: {different[0]}"] if different else []),
        *([f"{len(different) - 1} more servers differ"] if len(different) > 1 else []),
        *untested,
        *([f"{equal} of {len(results)} ready vLLM servers read conversations as the trainer does"] if results else []),
        *([f"a server cannot be compared yet: {waiting}"] if waiting else []),
    ]
    return "; ".join(parts) or "no vLLM server is known yet"


def compare(server: VllmServer, *, base_name: str, facts: ChatFacts) -> str | None:
    """The first difference between a server and the trainer, as the rest of a sentence about the server; None if equal.

    Raises:
        EndpointError: if the server cannot be asked.
    """
    for probe in facts.probes:
        found = _difference(server, base_name, probe, server.prompt_ids)
        if found is not None:
            return f"{found}. {f'{DATED}. ' if facts.dated else ''}{CAUSES}"
    for probe in facts.probes:
        found = _difference(server, base_name, probe, server.answered_ids)
        if found is not None:
            return f"{found}. {OWN_ENCODING}"
    if facts.probes and not server.ends_at(base_name, facts.probes[0].messages, facts.end):
        return (
            f"does not end an answer at {facts.end_text!r} (token {facts.end}), the template's end of turn, so trained "
            "answers would run on. Add the token to eos_token_id in the generation_config.json of the model's folder, "
            "and restart the server"
        )
    return None


def _difference(
    server: VllmServer,
    base_name: str,
    probe: Prompt,
    read: Callable[[str, Sequence[Mapping[str, Any]]], list[int] | None],
) -> str | None:
    try:
        answer = read(base_name, probe.messages)
    except EndpointError as exc:
        if exc.status in UNANSWERABLE:
            return f"refuses the conversation {probe.name!r}, which the trainer reads: {exc}"
        raise
    if answer is None or (served := tuple(answer)) == probe.ids:
        return None
    pairs = zip(served, probe.ids, strict=False)
    at = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(served), len(probe.ids)))
    theirs, ours = (_shown(server, base_name, ids, at) for ids in (served, probe.ids))
    return f"reads the conversation {probe.name!r} otherwise: at token {at} it has {theirs}, the trainer {ours}"


def _shown(server: VllmServer, base_name: str, ids: Sequence[int], at: int) -> str:
    """The text around a token; the ids if the server gives no text."""
    around = ids[max(at - SHOWN_BEFORE, 0) : at + SHOWN_FROM]
    if at >= len(ids):
        return "nothing"
    try:
        return repr(server.text(base_name, around)[:SHOWN_CHARACTERS])
    except EndpointError:
        return f"the tokens {', '.join(map(str, around))}"
