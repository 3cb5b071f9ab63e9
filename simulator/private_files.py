"""Private parameters at the end of a run: a file for each user, on its owner's disk."""

from __future__ import annotations

from pathlib import Path

from protos.errors import FLError
from protos.payloads import unpack
from scheduler.streams import uid_hash
from simulator.record import write_npz
from simulator.store import UserStore


def save_private(store: UserStore, output: Path) -> None:
    """Writes each trained uid's private parameters; they go from their owner to its own disk.

    Args:
        store: of this simulator.
        output: folder of the record; they go to its `params/private`.

    Raises:
        FLError: they cannot be written.
    """
    folder = output / "params" / "private"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FLError(f"{folder} cannot be written: {error.strerror}") from error
    for uid, _, payload in store.all_private():
        arrays = unpack(payload)
        write_npz(folder / f"{file_name(uid)}.npz", arrays)


def file_name(uid: str) -> str:
    """A uid as a file name: letters, digits, - and _ as they are, other bytes as %XX."""
    safe = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    name = "".join(chr(b) if b in safe else f"%{b:02X}" for b in uid.encode())
    return name if len(name) <= 200 else f"{name[:180]}-{uid_hash(uid):016x}"
