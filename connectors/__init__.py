"""Clients for other systems' protocols. They make no decisions and never import `daemon`. Read `chat` first."""
