"""Drills of several daemons on one database: `drill` says what a drill is, `stand` what it runs on."""
