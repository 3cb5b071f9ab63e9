"""Waiting for the next job without falling asleep at once."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

# A round of a tiny model leaves a shard idle for some 3 ms.
LINGER_SECONDS = 0.005
# After a longer job the time to wake up does not matter.
SHORT_JOB_SECONDS = 20 * LINGER_SECONDS


def linger(fd: int, seconds: float = LINGER_SECONDS, until: Callable[[], bool] | None = None) -> bool:
    """Looks for input again and again for a few milliseconds, leaving the core to whoever else wants it.

    A core that falls asleep takes a tenth of a millisecond or more to wake up, many times
    that on virtual machines, and comes back with cold caches.

    Args:
        fd: of a pipe.
        seconds: how long.
        until: something else to look for.

    Returns:
        Whether there is input (or the other end is closed), or what else was looked for.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    end = time.perf_counter() + seconds
    while not poll.poll(0) and not (until is not None and until()):
        if time.perf_counter() >= end:
            return False
        os.sched_yield()
    return True
