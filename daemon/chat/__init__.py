"""Renders conversations as the served model reads them. Read `template` first."""
