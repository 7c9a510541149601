"""Measures a candidate beside the live generation, and decides. Read `stage` first, then `gate`."""
