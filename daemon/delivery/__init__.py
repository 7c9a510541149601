"""Tells other systems what happened, from the outbox. Read `stage` first."""
