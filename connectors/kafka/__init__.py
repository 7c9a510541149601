"""What speaks Kafka's protocol: read `consumer` first."""
