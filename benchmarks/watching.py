"""Watches a run from outside: memory and CPU of each of its processes, by the part they play."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import psutil
from common import ROOT, failure

from simulator.launch.main_script import SHARD_MODULE

_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
MB = 1e6

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Memory:
    """Memory of some processes, in MB; pages that several share are counted once, in parts.

    Attributes:
        total: proportional set size, as `psutil` calls it `pss`.
        files: the part that is pages of files (programs, the store of users), which the system can take back.
    """

    total: float = 0.0
    files: float = 0.0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.total + other.total, self.files + other.files)

    @property
    def own(self) -> float:
        """All but pages of files."""
        return self.total - self.files


class Watched:
    """A program under way, with all processes that it has started.

    Args:
        command: its command line.
        environment: its variables.
    """

    def __init__(self, command: Sequence[object], environment: Mapping[str, str]) -> None:
        self._command = [str(word) for word in command]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            self._command,
            env=dict(environment),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Watched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        self._said.close()

    def running(self) -> bool:
        """Whether it is still under way.

        Raises:
            SystemExit: it has failed; with the end of what it said.
        """
        code = self._process.poll()
        if code:
            self._said.seek(0)
            raise SystemExit(failure(self._command, self._said.read().decode(errors="replace")))
        return code is None

    def memory(self) -> dict[str, Memory]:
        """Memory by part."""
        found: dict[str, Memory] = {}
        for part, memory in self._ask_all(_memory_of):
            found[part] = found.get(part, Memory()) + memory
        return found

    def cpu(self) -> dict[str, float]:
        """CPU seconds used so far, by part."""
        found: dict[str, float] = {}
        for part, seconds in self._ask_all(_cpu_of):
            found[part] = found.get(part, 0.0) + seconds
        return found

    def _ask_all(self, ask: Callable[[psutil.Process], Answer]) -> list[tuple[str, Answer]]:
        """Asks all processes there are; one that ends meanwhile is left out."""
        answers = []
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self._process.pid)
            for process in (top, *top.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                    answers.append((_part_of(process), ask(process)))
        return answers


def _part_of(process: psutil.Process) -> str:
    """Which part of a run a process plays: of ours, or of a peer's under torchrun."""
    if any(SHARD_MODULE in word for word in process.cmdline()):
        return "shards"
    environment = process.environ()
    rank = next((environment[name] for name in _RANKS if name in environment), None)
    if rank is not None:
        return "scheduler" if rank == "0" else "simulator"
    return "workers" if "LOCAL_RANK" in environment else "launcher"


def _cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _memory_of(process: psutil.Process) -> Memory:
    # psutil's pss is the same sum; here are its parts too.
    fields = {}
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]:
        name, value = line.split(":", 1)
        fields[name] = int(value.split()[0]) * 1024 / MB
    return Memory(fields.get("Pss", 0.0), fields.get("Pss_File", 0.0))
