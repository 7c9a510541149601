"""Speaks other systems' protocols (Kafka, vLLM); decides nothing and never imports ``daemon``."""
