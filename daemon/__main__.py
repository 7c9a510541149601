"""`python -m daemon` is the `erratad` command."""

from daemon.cli import main

main()
