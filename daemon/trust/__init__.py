"""What must be known about a report before a model learns from it. Pure. Read `policy` first."""
