"""Stage "traffic": adds up in the store what each server counts per generation: requests, errors, wrong refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from connectors.chat import EndpointError
from connectors.vllm_wire import ServerState
from daemon import metrics
from daemon.runtime.stage import Life, Step
from daemon.serving.fleet import Fleet
from daemon.store import Store
from daemon.store.traffic import Observed


class TrafficStage:
    """A server that crashes loses its counts since the last step: at most `idle_s` of its traffic."""

    name = "traffic"
    idle_s = 5.0

    def __init__(self, *, store: Store, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet

    def step(self, _life: Life) -> Step:
        generations = {adapter.name: adapter.generation for adapter in self._store.adapters.find(limit=1000)}
        observed, silent = list[Observed](), 0
        for server in self._fleet.servers:
            try:
                state = server.state()
            except EndpointError:
                silent += 1  # its counters are cumulative: nothing is lost when it answers again
                continue
            observed += _observed(state, generations)
            if state.shadowed:
                shadows = {generations[name]: one for name, one in state.shadowed.items() if name in generations}
                self._store.trials.saw_shadows(state.epoch, shadows)
        new = self._store.traffic.add(observed)
        metrics.GUIDANCE_REFUSALS.inc(new.guidance_refusals)
        asked = len(self._fleet.servers)
        return Step(sentence=f"counted the traffic of {asked - silent} of {asked} servers")


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
