"""Measures on public data whether learning from mistakes works, against the methods that it is said to beat."""
