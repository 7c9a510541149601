"""Measures candidate and live generation, and decides by the gate. Read `stage` first, then `gate`."""
