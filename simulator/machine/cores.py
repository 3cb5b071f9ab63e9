"""The cores a simulator may use: by its affinity, by its container's limit, shared with others of the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from simulator.machine.cgroups import CGROUPS, OWN, own_folders


def own_cores() -> list[int]:
    """Numbers of the cores that this process may run on, sorted."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores_for_shards(mine: Collection[int], others: Sequence[Collection[int]], limit: float | None) -> int:
    """Cores that one simulator has for its shards, at least 1.

    Args:
        mine: cores it may run on.
        others: the same of the other simulators of this machine; a core of several is shared by them.
        limit: cores' worth of time that the machine's processes may take together; None for no limit.
    """
    fair = sum(1 / (1 + sum(core in other for other in others)) for core in mine)
    if limit is not None:
        fair = min(fair, limit / (1 + len(others)))
    # Less than a whole core is none: a shard that waits for its time holds up the others of its round.
    return max(1, math.floor(fair + 1e-9))


def out_of_reach(mine: Collection[int], online: int, launcher: str | None) -> str | None:
    """A line on cores that a launcher keeps from this rank; None if it has more than half of them.

    Args:
        mine: cores it may run on.
        online: cores of the machine.
        launcher: who started it; None for nobody, who ties no process to cores by default.
    """
    if launcher is None or 2 * len(mine) > online:
        return None
    cure = "srun --cpu-bind=none" if launcher == "srun" else "--bind-to none"
    return f"{launcher} lets this rank run on {len(mine)} of the machine's {online} cores; {cure} gives it all"


def cpu_limit(root: Path = CGROUPS, own: Path = OWN) -> float | None:
    """Cores' worth of time that this process's control groups allow, as in a container; None for no limit.

    Args:
        root: where control groups are mounted.
        own: the process's own, as /proc tells.
    """
    limits = [limit for folder in own_folders("cpu", root, own) if (limit := _limit_of(folder)) is not None]
    return min(limits, default=None)


def _limit_of(folder: Path) -> float | None:
    version2 = _numbers(folder / "cpu.max")
    if len(version2) == 2:
        return version2[0] / version2[1]
    quota, period = _numbers(folder / "cpu.cfs_quota_us"), _numbers(folder / "cpu.cfs_period_us")
    if quota and period and quota[0] > 0:
        return quota[0] / period[0]
    return None


def _numbers(path: Path) -> list[float]:
    """The numbers a file holds; none if it is not there, or says `max`."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError:
        return []
    return [] if "max" in words else [float(word) for word in words]
