"""How glibc's allocator serves a rank, whose server has many threads that each work for a moment."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

# Every thread would get an arena of its own, which keeps what the thread once used: memory would
# grow until each had had its turn.
ARENAS = 2
_M_ARENA_MAX = -8


def limit_arenas(environ: Mapping[str, str]) -> bool:
    """Has the threads of this process share arenas; to be called before there are many.

    Args:
        environ: of this process; MALLOC_ARENA_MAX there is left as it is.

    Returns:
        Whether it could: another C library than glibc has no arenas.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if "MALLOC_ARENA_MAX" in environ or mallopt is None:
        return False
    return bool(mallopt(_M_ARENA_MAX, ARENAS))
