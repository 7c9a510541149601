"""Whether the served chat template has a system role. Gemma 1 and 2 and older Mistral models have none."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Scope

from connectors.vllm_plugin.inside import Reply, ask

TIMEOUT_S = 10.0
_QUESTION = {"role": "user", "content": "Hello"}
_SYSTEMS = ("Answer in one word.", "Write a long story about the sea.")
"""Two system messages. A template that shows them makes two different prompts."""
_log = logging.getLogger(__name__)


class SystemRole:
    """Asks the server itself, once, before the first guided request. A `given` answer is not asked for.

    A template has no system role if it refuses a system message but no question, or if it leaves the message out.
    """

    def __init__(self, app: ASGIApp, *, model: str, given: bool | None) -> None:
        self._app = app
        self._model = model
        self._known = given
        self._warned = False
        self._asking = asyncio.Lock()

    async def exists(self, scope: Scope) -> bool:
        """True, too, while the server gives no clear answer; the next call asks again then."""
        if self._known is None:
            async with self._asking:
                if self._known is None:
                    self._known = await self._ask(scope)
                    self._tell()
        return self._known is not False

    async def _ask(self, scope: Scope) -> bool | None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                shown = [await self._tokenized(scope, {"role": "system", "content": text}) for text in _SYSTEMS]
                if all(reply.status == HTTPStatus.OK for reply in shown):
                    return bool(shown[0].content["tokens"] != shown[1].content["tokens"])
                plain = await self._tokenized(scope)
        except (TimeoutError, KeyError, TypeError):
            return None
        refused = any(reply.refused for reply in shown) and plain.status == HTTPStatus.OK
        return False if refused else None

    async def _tokenized(self, scope: Scope, *before: dict[str, Any]) -> Reply:
        return await ask(self._app, scope, "/tokenize", {"model": self._model, "messages": [*before, _QUESTION]})

    def _tell(self) -> None:
        if self._known is False:
            _log.warning("The chat template has no system role: guidance goes above the first user message")
        elif self._known is None and not self._warned:
            self._warned = True
            _log.warning("/tokenize does not tell whether the chat template has a system role; set ERRATAD_SYSTEM_ROLE")
