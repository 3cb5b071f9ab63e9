"""Logging, set up once a process: time, rank, file, message."""

from __future__ import annotations

import logging
import sys


def set_up_logging(who: str, level: int = logging.INFO) -> None:
    """Sends records below WARNING to stdout and the others to stderr.

    Args:
        who: rank and shard, for every line.
        level: of the root logger.
    """
    form = logging.Formatter(f"%(asctime)s {who} %(filename)s:%(lineno)d %(message)s", "%Y-%m-%d %H:%M:%S")
    low = logging.StreamHandler(sys.stdout)
    low.addFilter(lambda record: record.levelno < logging.WARNING)
    high = logging.StreamHandler(sys.stderr)
    high.setLevel(logging.WARNING)
    root = logging.getLogger()
    for handler in (low, high):
        handler.setFormatter(form)
    root.handlers = [low, high]
    root.setLevel(level)
