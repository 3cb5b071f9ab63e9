"""The scheduler as a server and its client: lock, messages, reports."""
