"""Logging, set up once a process: time, rank, file, message."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def set_up_logging(who: str, level: int = logging.INFO) -> None:
    """Sends records below WARNING to stdout and the others to stderr.

    Args:
        who: rank and shard, for every line.
        level: of the root logger.
    """
    root = logging.getLogger()
    root.handlers = _handlers(who)
    root.setLevel(level)


@contextmanager
def logging_to_a_person(who: str, level: int = logging.INFO) -> Iterator[None]:
    """As `set_up_logging`, for the time of a run within a program that has not set up its logging.

    Args:
        who: rank, for every line.
        level: of the root logger.
    """
    root = logging.getLogger()
    if root.handlers:
        yield
        return
    before, own = root.level, _handlers(who)
    root.handlers = own
    root.setLevel(level)
    try:
        yield
    finally:
        root.handlers = [handler for handler in root.handlers if handler not in own]
        root.setLevel(before)


def _handlers(who: str) -> list[logging.Handler]:
    form = logging.Formatter(f"%(asctime)s {who} %(filename)s:%(lineno)d %(message)s", "%Y-%m-%d %H:%M:%S")
    low = logging.StreamHandler(sys.stdout)
    low.addFilter(lambda record: record.levelno < logging.WARNING)
    high = logging.StreamHandler(sys.stderr)
    high.setLevel(logging.WARNING)
    for handler in (low, high):
        handler.setFormatter(form)
    return [low, high]
