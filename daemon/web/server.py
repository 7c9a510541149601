"""uvicorn without its clock, which looks ten times a second whether it should end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import uvicorn

TICK_S = 1.0
"""The header `Date` is renewed this often."""


class HttpServer(uvicorn.Server):
    """Serves until `stop` is called."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), TICK_S)

    def stop(self) -> None:
        """End: no new requests, and those in work are answered. Thread-safe."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stopped.set)
