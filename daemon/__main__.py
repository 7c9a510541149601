"""`python -m daemon` is the `erratad` command."""

from connectors.entry import main

main()
