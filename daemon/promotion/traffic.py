"""Stage "traffic": adds up in the store what each server counts per generation: requests, errors, wrong refusals."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from connectors.chat import EndpointError
from connectors.vllm_wire import Served, ServerState, ShadowFigures
from daemon import metrics
from daemon.runtime.stage import Life, Step
from daemon.serving.fleet import Fleet
from daemon.store import Store
from daemon.store.traffic import Observed

REPEAT_S = 60.0
"""Counts that stay the same are stored again after this time, so that the store does not forget their servers."""

_Counts = tuple[str, Mapping[str, Served], Mapping[str, ShadowFigures]]


class TrafficStage:
    """A server that crashes loses its counts since the last step: at most `idle_s` of its traffic."""

    name = "traffic"
    idle_s = 5.0

    def __init__(self, *, store: Store, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet
        self._added: tuple[float, Sequence[_Counts]] | None = None
        """What was added last, and when."""

    def step(self, _life: Life) -> Step:
        states = list[ServerState]()
        for server in self._fleet.servers:
            with suppress(EndpointError):  # its counters are cumulative: nothing is lost when it answers again
                states.append(server.state())
        counts = [(state.epoch, state.traffic, state.shadowed) for state in states]
        now = time.monotonic()
        if self._added is None or counts != self._added[1] or now - self._added[0] >= REPEAT_S:
            self._add(states)
            self._added = now, counts
        return Step(sentence=f"counted the traffic of {len(states)} of {len(self._fleet.servers)} servers")

    def _add(self, states: Sequence[ServerState]) -> None:
        generations = {adapter.name: adapter.generation for adapter in self._store.adapters.find(limit=1000)}
        for state in states:
            if state.shadowed:
                shadows = {generations[name]: one for name, one in state.shadowed.items() if name in generations}
                self._store.trials.saw_shadows(state.epoch, shadows)
        new = self._store.traffic.add([one for state in states for one in _observed(state, generations)])
        metrics.GUIDANCE_REFUSALS.inc(new.guidance_refusals)


def _observed(state: ServerState, generations: Mapping[str, int]) -> Iterator[Observed]:
    for name, served in state.traffic.items():
        if name in generations:
            yield Observed(
                epoch=state.epoch,
                generation=generations[name],
                requests=served.requests,
                errors=served.errors,
                guidance_refusals=served.guidance_refusals,
            )
