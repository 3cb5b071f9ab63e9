"""The days of a data folder."""

from __future__ import annotations

import re
from pathlib import Path

from protos.errors import BadInput

_DAY = re.compile(r"[0-9]{8}")


def list_days(data: Path) -> list[str]:
    """The day folders of a data folder, in order.

    Raises:
        BadInput: no such folder, or no day in it.
    """
    if not data.is_dir():
        raise BadInput(f"data folder {data} is missing or is no folder")
    days = sorted(p.name for p in data.iterdir() if p.is_dir() and _DAY.fullmatch(p.name))
    if not days:
        raise BadInput(f"data folder {data} has no day folders (such as {data}/20200101)")
    return days
