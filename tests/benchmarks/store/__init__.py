"""`make bench-store`: what the daemon's, the console's and the command line's operations cost as the store grows."""
