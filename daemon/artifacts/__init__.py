"""Files on disk: adapters, the base model's fingerprint, run folders. Read `adapter` first."""
