"""The cores a simulator may use: by its affinity, by its container's limit, shared with others of the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


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


def cpu_limit(root: Path = CGROUPS, own: Path = _OWN) -> float | None:
    """Cores' worth of time that this process's control groups allow, as in a container; None for no limit.

    Args:
        root: where control groups are mounted.
        own: the process's own, as /proc tells.
    """
    limits = [limit for folder in _folders(root, own) if (limit := _limit_of(folder)) is not None]
    return min(limits, default=None)


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """The folders of the process's groups and of all above them, of both versions."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mounts = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [root / controllers, root / "cpu"]
        else:
            continue
        for mount in mounts:
            # A container may see its own group as the mount's top, whatever the path.
            folder = mount / path.strip("/")
            yield from (each for each in (folder, *folder.parents) if each == mount or mount in each.parents)


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
