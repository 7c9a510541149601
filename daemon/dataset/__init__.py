"""Chooses what a run trains on and writes it as immutable files. Read `stage` first."""
