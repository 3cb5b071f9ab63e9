"""What is pure and what users replace: sampling, exact sums, server steps, metrics."""
