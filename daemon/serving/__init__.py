"""The vLLM servers: the fleet, discovery of replicas, and the server that erratad runs itself. Read `fleet` first."""
