"""Infrastructure of the stages: loop, leader lease, signals, child processes, logs. Read `stage` first."""
