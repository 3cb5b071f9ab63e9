"""What runs inside a worker process, the only kind that loads Paddle."""
