"""The temporary folder of a rank, gone when the run is, however it ended."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

from protos.errors import FLError

logger = logging.getLogger(__name__)

_PREFIX = "flsim-"
# A folder that was being removed.
_GONE = ".gone"
# A folder this young may not have its lock yet.
_GRACE_SECONDS = 60.0


class ScratchFolder:
    """A folder on local disk (TMPDIR) that belongs to one process, and that no other user can enter.

    Removed by `remove`, by the shards if the process is killed, and by the next run on
    this machine if all of them were.

    Raises:
        FLError: it cannot be made.
    """

    def __init__(self) -> None:
        try:
            # Where TMPDIR says, full or not: `gettempdir` tries it, and goes elsewhere without a word.
            parent = os.environ.get("TMPDIR") or tempfile.gettempdir()
            _sweep(Path(parent))
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            self._alive = (self.path / "alive").open("w")
            fcntl.flock(self._alive, fcntl.LOCK_EX)
        except OSError as error:
            raise FLError(
                f"no temporary folder can be made in TMPDIR ({os.environ.get('TMPDIR', 'not set')}): {error.strerror}; "
                "free space or point TMPDIR elsewhere"
            ) from error

    def remove(self) -> None:
        """Removes the folder and all in it."""
        remove_folder(self.path)
        self._alive.close()


def remove_folder(path: Path) -> None:
    """Removes a scratch folder, which several processes may do at once, or just be about to open.

    Renamed first: who comes too late to open it must find nothing, and put nothing into it.
    """
    gone = path.with_name(f"{path.name}{_GONE}")
    with contextlib.suppress(OSError):
        path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def remove_abandoned(folder: Path, *, wait: bool = False) -> None:
    """Removes the scratch folder of a process that is gone.

    Args:
        folder: the folder.
        wait: whether to wait until it has gone, or has removed the folder itself.

    Raises:
        OSError: it is in use, somebody else's, or gone as well.
    """
    with (folder / "alive").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        remove_folder(folder)


def _sweep(parent: Path) -> None:
    """Removes the folders of runs that were killed as a whole: nobody holds their lock."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < _GRACE_SECONDS:
                continue
            if folder.suffix == _GONE:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            remove_abandoned(folder)
            logger.info("removed %s, left by a run that was killed", folder)
        except OSError:
            continue  # in use, somebody else's, or just gone
