"""Everything that runs inside vLLM's process. Read `plugin` first."""
