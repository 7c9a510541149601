"""Provokes mistakes of the served model (red-teaming) and files them as reports. Read `stage` first."""
