"""The operators' side: status, views, commands, configuration checks, gauges, retention. Read `status` first."""
