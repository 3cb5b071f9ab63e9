"""Checkpoints on disk, and going on from one."""
