"""What operators see and ask for: status, views, commands, checks, gauges, retention. Read `status` first."""
