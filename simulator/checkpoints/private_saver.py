"""A simulator's part of a checkpoint: its users' private parameters, written while the next rounds train."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from protos.errors import FLError, RunEnded
from scheduler.state.checkpoints import Segment
from simulator.checkpoints.files import KEPT, write_segment
from simulator.users.store import UserStore

_NAME = re.compile(r"step-\d+-rank(\d+)\.private")
# Files a checkpoint may be spread over before all is written anew.
_CHAIN = 16

Report = Callable[[int, Sequence[Segment]], None]


class PrivateSaver:
    """Writes files of private parameters; each holds what has changed since the one before.

    Args:
        store: of the users.
        folder: of the checkpoints.
        rank: of this simulator.
        report: tells the scheduler the files of a step.
        on_failure: told, in another thread, when a file cannot be written.
    """

    def __init__(
        self, store: UserStore, folder: Path, rank: int, report: Report, on_failure: Callable[[FLError], None]
    ) -> None:
        self._store, self._folder, self._rank = store, folder, rank
        self._report, self._on_failure = report, on_failure
        self._chains: list[tuple[Segment, ...]] = []
        self._step = 0
        self._thread: threading.Thread | None = None

    def begin(self, step: int) -> None:
        """Begins the files of the state before global round `step`, as it is now; waits for those before."""
        if step == self._step:
            return
        self.wait()
        chain = self._chains[-1] if self._chains else ()
        if len(chain) >= _CHAIN or (chain and sum(s.size for s in chain) > 2 * chain[0].size):
            chain = ()
        records = self._store.private_between(self._step if chain else 0, step)
        self._step = step

        def work() -> None:
            try:
                path = self._folder / f"step-{step:08d}-rank{self._rank}.private"
                self._chains.append((*chain, write_segment(path, records)))
                self._report(step, self._chains[-1])
            except RunEnded:
                pass  # said by whoever ended it
            except FLError as error:
                self._on_failure(error)

        # The files of the checkpoints before are all known to the scheduler by now.
        self._remove_old()
        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Returns when nothing is being written, or this much later; whether nothing is."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _remove_old(self) -> None:
        """Removes files of this rank that none of the last checkpoints needs."""
        del self._chains[:-KEPT]
        if len(self._chains) < KEPT:
            return  # those of a run before this one may still be needed
        needed = {segment.name for chain in self._chains for segment in chain}
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                match = _NAME.fullmatch(path.name)
                if match is not None and int(match[1]) == self._rank and path.name not in needed:
                    path.unlink(missing_ok=True)
