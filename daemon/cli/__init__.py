"""The `erratad` command. Start-up stays fast: a command imports its modules when it runs.

Read `app` first.
"""

from __future__ import annotations

from daemon.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    app(prog_name="erratad")
