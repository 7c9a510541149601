"""Asks why a flagged answer was wrong, and keeps analyses that pass the checks. Read `stage` first."""
