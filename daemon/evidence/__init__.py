"""Looks for evidence that the model gave a flagged answer. Read `stage` first."""
