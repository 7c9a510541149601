#!/usr/bin/env python3
"""Exits with 0 when the vLLM server of this container answers under the alias: a readiness probe.

A server without a live generation answers 503 under the alias, so it must get no traffic yet; `/health` is good long
before. Takes the port as its argument (8000), and the token from ERRATAD_ADMIN_TOKEN or ERRATAD_ADMIN_TOKEN_FILE.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path


def admin_token() -> str:
    file = os.environ.get("ERRATAD_ADMIN_TOKEN_FILE")
    return Path(file).read_text(encoding="utf-8").strip() if file else os.environ["ERRATAD_ADMIN_TOKEN"]


def main() -> int:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/erratad/v1/state", headers={"Authorization": f"Bearer {admin_token()}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=4) as answer:  # noqa: S310
            live = json.load(answer)["live"]
    except OSError as exc:
        print(f"not ready: {exc}")
        return 1
    print(f"answers as {live}" if live else "not ready: no generation is live here yet")
    return 0 if live else 1


if __name__ == "__main__":
    sys.exit(main())
