"""Filters, one file each; importing this registers their names.  None imports Paddle."""

from trainer.filters.clip import Clip
from trainer.filters.dp import UserDP

__all__ = ["Clip", "UserDP"]
