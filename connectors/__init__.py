"""Speaks other systems' protocols; decides nothing and never imports `daemon`. Read `messages` first."""
