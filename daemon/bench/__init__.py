"""Measures on public data whether learning from mistakes works here, against the methods that it is said to beat."""
