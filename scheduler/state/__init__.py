"""The state of a run: users of the days, the round that is on, the global model."""
