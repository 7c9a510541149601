"""Asks why a flagged answer was wrong, and keeps an analysis that passes the checks. Read `stage` first."""
