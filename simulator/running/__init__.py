"""A run from start to end, on rank 0 and on a simulator."""
