"""Kafka consumer and producer. Read `consumer` first."""
