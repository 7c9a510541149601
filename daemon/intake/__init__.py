"""Flagged responses come in: from Kafka, by HTTP, from files. Read `stage` first."""
