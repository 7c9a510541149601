"""What lies on disk: adapters, the base model's fingerprint, run folders. Read `adapter` first."""
