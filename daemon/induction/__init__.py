"""Provokes mistakes of the served model and files them as reports. Read `stage` first."""
