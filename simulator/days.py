"""The days of a data folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protos.errors import BadInput

_DAY = re.compile(r"[0-9]{8}")
_SPLITS = ("train", "test")
# The one day of a folder with no days: with train/ and test/, as LEAF's scripts leave it, or as a reader takes it.
UNDATED = "00000000"


def list_days(data: Path, *, one_day: bool = False) -> list[str]:
    """The days of a data folder, in order: its day folders, or `UNDATED` if it holds train/ or test/ itself.

    Args:
        data: the folder.
        one_day: whether a folder without any of these is a day for the reader (`ReaderBase.one_day`).

    Raises:
        BadInput: no such folder, no day in it, or both kinds.
    """
    if not data.is_dir():
        raise BadInput(f"data folder {data} is missing or is no folder")
    days = sorted(p.name for p in data.iterdir() if p.is_dir() and _DAY.fullmatch(p.name))
    splits = [split for split in _SPLITS if (data / split).is_dir()]
    if UNDATED in days:
        raise BadInput(f"data folder {data} has a folder {UNDATED}, which is no date: name it as a day (YYYYMMDD)")
    if days and splits:
        raise BadInput(
            f"data folder {data} has day folders (such as {days[0]}) and {splits[0]}/ beside them; keep one of the two"
        )
    if not days and not splits and not one_day:
        raise BadInput(f"data folder {data} has no day folders (such as {data}/20200101), nor train/ and test/")
    return days or [UNDATED]


def takes_one_day(reader: Any) -> bool:
    """Whether a data folder without day folders is a day for this reader."""
    return bool(getattr(reader, "one_day", False))


def check_days(days: Sequence[str]) -> None:
    """Raises BadInput if the days of all hosts are of both kinds."""
    if UNDATED in days and len(days) > 1:
        raise BadInput(
            f"the data folder has train/ and test/ on one host and day folders (such as {max(days)}) on another; "
            "lay it out in one way on all"
        )


def day_folder(data: Path, date: str) -> Path:
    """Where the files of a day are."""
    return data if date == UNDATED else data / date


def held_folders(data: Path, *, one_day: bool = False) -> list[Path]:
    """The folders that hold the files of all days, and nothing else; arguments and errors as of `list_days`."""
    days = list_days(data, one_day=one_day)
    if days != [UNDATED]:
        return [data / day for day in days]
    folders = [data / split for split in _SPLITS]
    return folders if any(folder.is_dir() for folder in folders) else [data]


def name_within(data: Path, path: Path) -> str:
    """What a file is called on all hosts: its path from the data folder on, "../..." for one that lies outside."""
    return Path(os.path.relpath(path, data)).as_posix()
