"""Records exchanged between the daemon and the plugin inside vLLM."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

ADMIN_HEADER = "x-erratad-admin-token"
"""Header with the admin token of a server. `Authorization` holds vLLM's API key."""
TERM_HEADER = "x-erratad-term"
"""Header with the number of the leadership that an admin request belongs to; a server refuses changes of an earlier one
than it has heard of, with status 412. Without the header, e.g. from an operator's command, a request is not refused."""
INTERFACE = 2
"""Version of what daemon and plugin expect of each other. 2: routes that are not listed are closed. Before: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trial of the candidate `name`.

    `mode` canary: the candidate answers a `share` of the conversations under the alias.
    `mode` shadow: it answers copies of a `share` of the requests, at most `concurrency` at a time.
    """

    mode: Literal["canary", "shadow"]
    name: str
    share: float
    concurrency: int

    def takes(self, conversation: bytes) -> bool:
        """Whether the conversation belongs to the share. Stateless, so all replicas agree."""
        digest = hashlib.sha256(self.name.encode() + b"\0" + conversation).digest()
        return int.from_bytes(digest[:8]) < self.share * 2**64


@dataclass(slots=True, kw_only=True)
class ShadowFigures:
    """Pairs of a live answer and the candidate's answer to the same request. `dropped`: copies not sent."""

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
    """Requests answered by one generation under the alias since the server started; `errors` of them failed.

    `guidance_refusals`: further requests, refused by vLLM, that would have been accepted without the guidance.
    """

    requests: int = 0
    errors: int = 0
    guidance_refusals: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a server has done since its start.

    `tokens`: of all prompts and answers. `users`: requests under the alias in flight now; `users_seconds` and
    `users_tokens`: what those that were answered took, and the tokens of their answers.
    """

    tokens: int
    users: int
    users_seconds: float
    users_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """State of one server. `epoch` changes with each start of the server; `adapters`: name -> requests in flight.

    `interface`: the plugin's `INTERFACE`; 1 for a plugin from before there was one.
    `pulls_from`: URL of the store that adapters are pulled from, "" for none, None for a plugin that cannot pull.
    """

    live: str | None
    epoch: str
    adapters: Mapping[str, int]
    traffic: Mapping[str, Served] = field(default_factory=dict, compare=False)
    trial: Trial | None = None
    shadowed: Mapping[str, ShadowFigures] = field(default_factory=dict, compare=False)
    interface: int = INTERFACE
    work: Work | None = field(default=None, compare=False)
    """None: the server does not tell it."""
    pulls_from: str | None = field(default=None, compare=False)
    term: int = field(default=0, compare=False)
    """The latest leadership that the server has heard of since its start; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One choice of an answer. `tool_calls` are in OpenAI's format, without ids."""

    text: str
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What a server was asked by a client, and what it answered.

    `generation`: the generation that answered. `request`: the client's conversation, without the guidance
    (`messages`, or `input` and `instructions`). `partial`: the answer was cut off. `forced`: options of the request by
    which the client decided what is said.
    """

    generation: str
    request: Mapping[str, Any]
    choices: tuple[Said, ...]
    partial: bool = False
    forced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Result of a probe request to a loaded adapter. Only an adapter with `ok` may go live.

    The base model can be `ok` too, though it does not differ from itself.
    """

    ok: bool
    differs_from_base: bool
    finite: bool
    text: str
