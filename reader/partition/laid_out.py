"""A plain set laid out once in a folder of this host, for a page that is run on the set itself."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from protos.errors import BadInput
from reader.partition.command import Order, lay_out

# Changes with what is written, so that nobody reads what an older version laid out.
_FORMAT = 1


def laid_out(data: Path, order: Order) -> Path:
    """The day folders of a plain set, in a folder of this user's under TMPDIR; made if they are not there yet.

    Several processes may ask at once: one makes them.  Files that have changed are laid out anew.

    Args:
        data: the plain set, see `read_source`.
        order: what to make.

    Raises:
        BadInput, DataError: it cannot be made; the message is one line.
    """
    home = Path(tempfile.gettempdir()) / f"flsim-partition-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    held = home.lstat()
    if home.is_symlink() or held.st_uid != os.getuid() or held.st_mode & 0o077:
        raise BadInput(f"{home} can be entered by others; remove it, or set TMPDIR to a folder of your own")
    out = home / f"{data.resolve().name}-{_key(data, order)}"
    with (home / f".{out.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        if not out.exists():
            lay_out(data, out, order)
    return out


def _key(data: Path, order: Order) -> str:
    files = sorted(data.iterdir()) if data.is_dir() else [data]
    return hashlib.blake2b(repr((_FORMAT, order, list(_states(files)))).encode(), digest_size=8).hexdigest()


def _states(files: Iterable[Path]) -> Iterable[tuple[str, int, int]]:
    for path in files:
        if path.is_file():
            state = path.stat()
            yield path.name, state.st_size, state.st_mtime_ns
