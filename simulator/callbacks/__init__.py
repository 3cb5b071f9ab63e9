"""Who is told of a run's rounds as they end, and may have it stop or keep parameters."""
