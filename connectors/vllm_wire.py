"""What the daemon and the plugin inside vLLM tell each other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """`mode` canary: the candidate `name` answers a `share` of the conversations under the alias. shadow: it answers
    copies of that share, at most `concurrency` at a time."""

    mode: Literal["canary", "shadow"]
    name: str
    share: float
    concurrency: int

    def takes(self, conversation: bytes) -> bool:
        digest = hashlib.sha256(self.name.encode() + b"\0" + conversation).digest()
        return int.from_bytes(digest[:8]) < self.share * 2**64


@dataclass(slots=True, kw_only=True)
class ShadowFigures:
    """Pairs of a live answer and the candidate's to the same request. `dropped`: copies that were too many."""

    pairs: int = 0
    errors: int = 0
    live_errors: int = 0
    seconds: float = 0.0
    live_seconds: float = 0.0
    dropped: int = 0

    def shown(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Requests that a generation answered under the alias since the server started, and how many of them failed."""

    requests: int
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What one server holds. `epoch` changes with each start of the server; `adapters`: name -> requests in flight."""

    live: str | None
    epoch: str
    adapters: Mapping[str, int]
    traffic: Mapping[str, Served] = field(default_factory=dict, compare=False)
    trial: Trial | None = None
    shadowed: Mapping[str, ShadowFigures] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a canary request to a loaded adapter showed; only an `ok` adapter may go live."""

    ok: bool
    differs_from_base: bool
    finite: bool
    text: str
