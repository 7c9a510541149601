"""What a daemon without work costs: processor time, writes, memory."""
