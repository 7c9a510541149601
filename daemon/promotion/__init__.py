"""Takes an accepted candidate live, on trial first where configured, and watches it. Read `stage` first."""
