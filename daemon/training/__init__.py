"""Trains one LoRA adapter in a child process that can resume. Read `stage` first."""
