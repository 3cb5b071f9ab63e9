"""Private parameters at the end of a run: a file for each user, on its owner's disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

from protos.errors import FLError
from protos.payloads import unpack
from simulator.npz import write_npz
from simulator.users.store import UserStore

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
# A name has 255 bytes; ".npz", and what it is called while it is written, need ten.
_LONGEST, _KEPT = 200, 150


def save_private(store: UserStore, output: Path, before: int | None = None) -> None:
    """Writes each trained uid's private parameters; they go from their owner to its own disk.

    Each file says whose it is in its archive's comment.

    Args:
        store: of this simulator.
        output: folder of the record; they go to its `params/private`.
        before: as they were before this round of the run; None for the newest.

    Raises:
        FLError: they cannot be written.
    """
    folder = output / "params" / "private"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FLError(f"{folder} cannot be written: {error.strerror}") from error
    for uid, _, payload in store.all_private() if before is None else store.private_between(0, before):
        write_npz(folder / f"{file_name(uid)}.npz", unpack(payload), comment=uid)


def file_name(uid: str) -> str:
    """A uid as a file name that no other uid has.

    Letters, digits, - and _ are as they are, other bytes (of UTF-8) %XX.  A name that would be too long, or
    empty, ends in ~ and a digest of the whole uid; no other name has a ~.
    """
    raw = uid.encode()
    name = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in raw)
    if 0 < len(name) <= _LONGEST:
        return name
    return f"{name[:_KEPT]}~{hashlib.blake2b(raw, digest_size=20).hexdigest()}"
