"""The vLLM servers: which there are, and the one that erratad runs itself. Read `fleet` first."""
