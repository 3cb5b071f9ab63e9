"""A rank of a run that `run()` has started: a page without a page."""

from __future__ import annotations

import json
import os
import pickle
import sys
import traceback
from pathlib import Path

from protos.errors import BadInput, FLError
from simulator.framework import SimulationFramework
from simulator.in_force import Pieces
from simulator.launch.launch_environment import launcher_rank
from simulator.launch.launcher import leave_with
from simulator.launch.main_script import import_main
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.running.outcome import Outcome
from simulator.running.ranks import JOB, MAIN
from simulator.settings import BAD_USAGE, Settings
from simulator.users.scratch import remove_folder


class _Rank(SimulationFramework):
    """As a page's framework, and rank 0 tells the process that has started it how the run ends.

    Args:
        role_maker: which rank this is.
        settings: of the run.
        pieces: of the run.
        folder: that both processes see.
    """

    def __init__(self, role_maker: FLSimRoleMaker, settings: Settings, pieces: Pieces, folder: Path) -> None:
        super().__init__(role_maker, settings)
        self._pieces, self._folder = pieces, folder

    def play(self) -> None:
        """As `run`, of a program that may have been typed in."""
        self._play()

    def _has_ended(self, outcome: Outcome) -> None:
        outcome.write(self._folder)


def main(folder: Path, starter: int) -> None:
    """Plays this rank's part.

    Args:
        folder: with what the run consists of.
        starter: process id of the program that has called `run()`: the run ends with it.
    """
    leave_with(starter, lambda: remove_folder(folder))
    try:
        import_main(json.loads((folder / MAIN).read_text(encoding="utf-8")))
        # Made by the program that has started this process, in a folder that nobody else can enter.
        settings, pieces, callbacks = pickle.loads((folder / JOB).read_bytes())  # noqa: S301
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a script may do anything when it is imported
        if launcher_rank(os.environ) == 0:
            _refusal(error).write(folder)
        raise SystemExit(BAD_USAGE) from None
    rank = _Rank(FLSimRoleMaker(), settings, pieces, folder)
    rank.set_callbacks(callbacks)
    rank.play()


def _refusal(error: BaseException) -> Outcome:
    """Why this rank does not know what to play."""
    if isinstance(error, FLError):
        return Outcome(error=BadInput.__name__, message=str(error))
    said = "".join(traceback.format_exception(error)).rstrip()
    return Outcome(error=BadInput.__name__, message=f"a rank cannot import what the run consists of:\n{said}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
