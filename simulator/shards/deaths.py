"""Why a shard may have died, and what to do: the kernel counts the processes that it kills for lack of memory."""

from __future__ import annotations

import signal
from pathlib import Path

from simulator.machine.address_space import limit_hint
from simulator.machine.cgroups import CGROUPS, OWN, own_folders

_MACHINE = Path("/proc/vmstat")


class OomKills:
    """Processes that the kernel has killed for lack of memory, in this process's control groups.

    Where these do not tell, those of the whole machine.

    Args:
        root: where control groups are mounted.
        own: the process's own, as /proc tells.
        machine: the machine's counters.
    """

    def __init__(self, root: Path = CGROUPS, own: Path = OWN, machine: Path = _MACHINE) -> None:
        folders = list(own_folders("memory", root, own))
        # Of version 2 and of version 1.
        self._files = [folder / name for folder in folders for name in ("memory.events", "memory.oom_control")]
        self._machine = machine
        self._known = self._count()

    def new(self) -> bool:
        """Whether there are more than the last time."""
        before, self._known = self._known, self._count()
        return self._known > before

    def _count(self) -> int:
        counts = [count for file in self._files if (count := _oom_kills(file)) is not None]
        # A group of version 2 counts those of the groups below it too.
        return max(counts) if counts else _oom_kills(self._machine) or 0


def death_hint(code: int, shards: int, *, oom_killed: bool) -> str:
    """What to say of a shard's death beside how it came.

    Args:
        code: its exit status, or minus the signal.
        shards: that are in use.
        oom_killed: whether the kernel has just killed a process for lack of memory.
    """
    if code != -signal.SIGKILL:
        limit = limit_hint()
        return f"; {limit}" if limit else ""
    fewer = f"use fewer shards, such as --shards {shards - 1} ({shards} are in use)"
    cure = fewer if shards > 1 else "give the run more memory, or let its users have less data at once"
    if oom_killed:
        return f"; memory ran out and the kernel killed it: {cure}"
    return f"; the system may have run out of memory: if so, {cure}"


def _oom_kills(path: Path) -> int | None:
    """The number in the line `oom_kill N` of a file; None if it has none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
