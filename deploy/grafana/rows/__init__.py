"""The panels of the dashboards' rows, a module per part of the loop.

Figures from the database are the same in every daemon: `max`, not `sum`. Counters are each daemon's own: `sum`.
"""
