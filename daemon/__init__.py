"""erratad: a daemon that lets a served chat model learn from the responses that its users flagged."""

__version__ = "0.1.0"
