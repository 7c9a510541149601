"""Feedback as other products export or send it, as messages of the wire schema. Read `reading` first."""
