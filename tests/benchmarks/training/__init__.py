"""Speed and correctness of the training, without vLLM, Kafka or a database: `make bench-train`, `make gpu-check`."""
