"""The limit of address space that a job may have (`ulimit -v`), and what to say where it is too small."""

from __future__ import annotations

import errno
import os
import resource

from protos.errors import BadInput

# Of a rank, without what users bring along: libraries, the threads of gRPC, which aborts a process that can start
# none, and the store's half.  A shard needs more; it says so itself.
LEAST_BYTES = 3 << 29
RAISE_LIMIT = "raise the limit or remove it (ulimit -v unlimited)"
# How the loader, C++, Python's threads, orjson and Paddle say it.
_TOLD = (
    os.strerror(errno.ENOMEM).lower(), "failed to map segment", "bad_alloc", "can't start new thread",
    "not enough memory", "out of memory",
)  # fmt: skip


def address_space() -> int | None:
    """Bytes of address space that each process of this job may have; None if that is not limited."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def limit_hint() -> str:
    """What to do about memory that could not be had, if address space is limited; else nothing."""
    limit = address_space()
    if limit is None:
        return ""
    return f"each process of this job may have {gib(limit)} of address space: {RAISE_LIMIT}"


def check_address_space() -> None:
    """Raises BadInput if no rank can live within the limit of this job."""
    limit = address_space()
    if limit is not None and limit < LEAST_BYTES:
        raise BadInput(f"a run needs {gib(LEAST_BYTES)} or more; {limit_hint()}")


def lack_of_memory(error: BaseException) -> str | None:
    """One line for an error that a limit of address space may have brought about; None for any other."""
    hint = limit_hint()
    seen: BaseException | None = error
    while hint and seen is not None:
        text = str(seen)
        if isinstance(seen, MemoryError) or any(told in text.lower() for told in _TOLD):
            return f"{' '.join(text.split()) or 'no memory'}; {hint}"
        seen = seen.__cause__ or seen.__context__
    return None


def gib(size: int) -> str:
    """A size for a person."""
    return f"{size / 2**30:.1f} GiB"
