"""Speaks Kafka's protocol. Read `consumer` first."""
