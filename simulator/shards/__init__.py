"""The simulator's side of its worker processes: jobs, the work queue, who lives and who died."""
