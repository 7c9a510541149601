"""Personal data and secrets: the key, and certificates of erasure. Read `keys` first."""
