"""Ordinary prompts are answered while no run needs the servers and no user asks them, so that a run waits for fewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from connectors.chat import EndpointError
from daemon.artifacts.base_model import base_fingerprint
from daemon.dataset.answers import while_wanted
from daemon.dataset.replay import Prompt, ReplaySource
from daemon.errors import ConfigError, ServingError
from daemon.runtime.stage import UNTIL_WRITTEN_S, Life, Step
from daemon.serving.fleet import Fleet

IDLE = "no run to prepare"


class AnswersAhead:
    """Asks until a user does or a run starts, and only servers without a request of a user since the last look."""

    def __init__(
        self,
        replay: ReplaySource,
        fleet: Fleet,
        *,
        model_path: Path,
        check_chat: Callable[[], None],
        run_waits: Callable[[], bool],
        at_most: int,
        seed: int,
    ) -> None:
        """`at_most` and `seed` are those of the runs, so that the same prompts are asked."""
        self._replay = replay
        self._fleet = fleet
        self._model_path = model_path
        self._check_chat = check_chat
        self._run_waits = run_waits
        self._at_most = at_most
        self._seed = seed
        self._served: int | None = None
        """Requests that the servers had answered at the last look."""
        self._last: tuple[str, int] | None = None
        """The base model at the last look, and the number of its prompts without an answer."""

    def step(self, life: Life) -> Step:
        """Ask, if prompts have no answer yet and no user asks."""
        try:
            self._check_chat()
            return self._ask(base_fingerprint(self._model_path), life)
        except (ServingError, EndpointError, ConfigError, OSError) as exc:
            return Step(sentence=f"{IDLE}; no ordinary prompt is answered ahead: {exc}")

    def _ask(self, fingerprint: str, life: Life) -> Step:
        known = self._last
        left = known[1] if known is not None and known[0] == fingerprint else len(self._look(fingerprint))
        if not left:
            return Step(sentence=IDLE, rest_s=UNTIL_WRITTEN_S)
        if self._users_ask():  # a busy server is met in each step, so the prompts are not read again for it
            return Step(sentence=f"{IDLE}; {left} ordinary prompts wait until no user asks the servers")
        missing = self._look(fingerprint)
        if not missing:
            return Step(sentence=IDLE, rest_s=UNTIL_WRITTEN_S)

        def goes_on(left: int) -> bool:
            life.say(_waiting(left))
            return not (self._run_waits() or self._users_ask())

        left = self._replay.ask(fingerprint, missing, goes_on=while_wanted(life, goes_on))
        self._last = fingerprint, left
        return Step(sentence=_waiting(left), worked=True)

    def _look(self, fingerprint: str) -> Sequence[Prompt]:
        """The prompts without an answer. Reads the prompts and all kept answers."""
        missing = self._replay.pairs(fingerprint, count=self._at_most, seed=self._seed).missing
        self._last = fingerprint, len(missing)
        return missing

    def _users_ask(self) -> bool:
        """Whether a request is in flight, or was answered since the last look. True at the first look."""
        states = [server.state() for server in self._fleet.servers]
        served, before = sum(one.requests for state in states for one in state.traffic.values()), self._served
        self._served = served
        return served != before or any(sum(state.adapters.values()) for state in states)


def _waiting(count: int) -> str:
    return f"{IDLE}; {count} ordinary prompts wait for the base model"
