"""Who this process is in the run: launcher, ranks, addresses, signals."""
