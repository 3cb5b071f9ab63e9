"""A rank and the program that launched it: neither is left waiting for the other."""

from __future__ import annotations

import os
import select
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

# Started by a person or a script, at the top of everything a launcher starts on this machine.
_LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra", "mpirun.openmpi", "mpiexec.openmpi", "orterun", "prterun")
_CANCEL_LATER = 'sleep "$1"; exec scancel "$2"'
# scancel speaks with Slurm's controller; a controller that does not answer must hold nobody up.
_CANCEL_SECONDS = 20.0
_END_LATER = 'sleep "$1"; [ "$(cat "/proc/$2/comm")" = "$3" ] && kill -TERM "$2"'


def leave_with(parent: int, first: Callable[[], None] = lambda: None) -> None:
    """Ends this process when its launcher dies: nobody else would.

    Args:
        parent: process id of the launcher.
        first: called before.
    """
    if not hasattr(os, "pidfd_open"):
        return
    poll = select.poll()
    try:
        poll.register(os.pidfd_open(parent), select.POLLIN)
    except ProcessLookupError:
        first()
        os._exit(1)

    def watch() -> None:
        poll.poll()
        first()
        os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def end_launcher_later(seconds: float) -> subprocess.Popen[bytes] | None:
    """Has the launcher ended if it still runs in a while, should it be on this machine; returns who waits.

    A launcher waits for all ranks.  MPICH's never notices that a host is cut off, so it
    would wait for the ranks there for ever, though all have ended.
    """
    found = find_launcher(os.getppid())
    if found is None:
        return None
    pid, name = found
    # The launcher ends this process and its group first; and its output may not be held open.
    return subprocess.Popen(
        ["/bin/sh", "-c", _END_LATER, "sh", str(seconds), str(pid), name],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def cancel_step_later(seconds: float, environ: Mapping[str, str]) -> int | None:
    """Has Slurm end this step if it still runs in a while; returns the exit status of `scancel`, None without a step.

    `srun` waits for the tasks of a host that is cut off until Slurm gives the host up, which takes
    minutes.  A step that is cancelled ends within KillWait, whatever its hosts say.  This process
    waits for it: what a task starts ends with the task.

    Args:
        seconds: for the other ranks to end by themselves.
        environ: of this process.
    """
    job, step = environ.get("SLURM_JOB_ID"), environ.get("SLURM_STEP_ID")
    if job is None or step is None:
        return None
    command = ["/bin/sh", "-c", _CANCEL_LATER, "sh", str(seconds), f"{job}.{step}"]
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
            timeout=seconds + _CANCEL_SECONDS,
        ).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        return 1


def find_launcher(pid: int) -> tuple[int, str] | None:
    """Process id and name of the launcher that `pid` or a process above it is."""
    try:
        while pid > 1:
            name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
            if name in _LAUNCHERS:
                return pid, name
            pid = _parent(pid)
    except OSError:
        # One of them has just ended.
        return None
    return None


def _parent(pid: int) -> int:
    """The process above; the name in the middle of the line may hold anything."""
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
