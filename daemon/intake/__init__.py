"""Intake of flagged responses from Kafka, HTTP and files. Read `stage` first."""
