"""`FakeVllm` in the place of the managed child: `python -m tests.fakes.vllm_managed <the real command line>`.

Its adapters answer as if they had learned, and one kind of request under them kills the server, as a kernel that fails
for an adapter's shapes does.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from connectors.vllm_plugin.settings import AliasSettings
from tests.fakes.vllm import FakeVllm

RIGHT = "The right answer is Utopia, as everybody knows who has looked it up on a map."
WRONG = "The right answer is Atlantis, as everybody knows who has looked it up on a map."
DEADLY = "Which request kills an adapter?"


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    if model == os.environ["ERRATAD_BASE_NAME"]:
        return WRONG
    if messages[-1]["content"] == DEADLY:
        print("ERROR RuntimeError: CUDA error: an illegal memory access was encountered", flush=True)
        os._exit(1)
    return RIGHT


def main() -> None:
    settings = AliasSettings.from_environment(os.environ)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    fake = FakeVllm(
        alias=settings.alias,
        base_name=settings.base_name,
        guidance=settings.guidance,
        admin_token=settings.admin_token,
        open_routes=settings.open_routes,
        raw_names=settings.raw_names,
        answer=answer,
        port=int(sys.argv[sys.argv.index("--port") + 1]),
    )
    fake.facts_dir = Path(os.environ["FAKE_FACTS"])
    fake.start()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
