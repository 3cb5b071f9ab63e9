"""How parameters and sums travel between a simulator, its peers and the scheduler."""
