"""erratad: a daemon that lets a served chat model learn from the responses that its users flagged.

Read `service` first.
"""

__version__ = "0.1.0"
