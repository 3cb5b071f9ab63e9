"""How many files a rank may have open."""

from __future__ import annotations

import contextlib
import resource

# Far beyond what a run needs; more would only let strangers take more memory.
_ENOUGH = 1 << 15


def raise_file_limit() -> None:
    """Raises this process's own limit of open files as far as it may, for its shards too.

    The usual limit of 1,024 is for programs that `select` among all their files; here it is
    used for one that is open from the start.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(_ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Refused by some systems although it is within the limit: then it stays as it is.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
