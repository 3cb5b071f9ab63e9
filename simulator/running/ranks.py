"""A run of several ranks that a program starts by itself: `mpirun` and its end, the job and its result."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from protos.errors import FLError
from simulator.callbacks.callback import Callback
from simulator.in_force import Pieces
from simulator.launch.main_script import RANK_MODULE, main_module, module_command
from simulator.launch.signals import RunSignals
from simulator.output.result import RunResult, read_result
from simulator.running.outcome import Outcome
from simulator.settings import Settings
from simulator.settings_choices import with_settings
from simulator.shards.environment import launchable_environment
from simulator.shards.sending import check_sendable, dumps
from simulator.users.scratch import ScratchFolder

logger = logging.getLogger(__name__)

# In the folder between the two programs: the script that classes are in, and what the run consists of.
MAIN, JOB = "main.json", "job"
# From Ctrl-C to the end of all ranks.
_END_SECONDS = 20.0
# Of what a run says that ends without a word of its own.
_LAST_LINES = 5


def run_ranks(
    settings: Settings, pieces: Pieces, callbacks: Sequence[Callback], ranks: int, signals: RunSignals | None
) -> RunResult:
    """Has `mpirun` play a run on this machine.

    Args:
        settings: of the run.
        pieces: of the run.
        callbacks: of the run; they are told in the process of rank 0.
        ranks: one scheduler and the simulators.
        signals: of this process, which are passed on to the ranks; None if it gets none.

    Raises:
        FLError: the run was refused or has failed.
    """
    pieces = _made(settings, pieces)
    for name, piece in (*vars(pieces).items(), *((f"callback {n}", each) for n, each in enumerate(callbacks, 1))):
        if piece is not None:
            check_sendable(name.replace("_", " "), piece)
    scratch = ScratchFolder()
    try:
        _write(scratch.path / MAIN, json.dumps(main_module()).encode())
        _write(scratch.path / JOB, dumps((settings, pieces, tuple(callbacks))))
        command = [_mpirun(), "-np", str(ranks), *module_command(RANK_MODULE), str(scratch.path), str(os.getpid())]
        said: deque[str] = deque(maxlen=_LAST_LINES)
        with _started(command, said) as process:
            if signals is not None:
                signals.follow(lambda name: process.send_signal(signal.Signals[name]))
            status = process.wait()
        outcome = Outcome.read(scratch.path)
    finally:
        scratch.remove()
    if outcome is None:
        last = " | ".join(said) or "it has said nothing"
        raise FLError(f"mpirun -np {ranks} ended with status {status} and no result: {last}")
    if outcome.error is not None:
        raise outcome.failure()
    return read_result(Path(outcome.folder), outcome.result, outcome.stopped)


def _write(path: Path, content: bytes) -> None:
    """Writes a file that nobody else can read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
        file.write(content)


def _mpirun() -> str:
    """The `mpirun` of this Python's environment, else the one on the path.

    Raises:
        FLError: there is none.
    """
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.is_file() else shutil.which("mpirun")
    if found is None:
        raise FLError("ranks > 1 needs mpirun, which is neither beside this Python nor on the path: pip install mpich")
    return found


@contextmanager
def _started(command: Sequence[str], said: deque[str]) -> Iterator[subprocess.Popen[str]]:
    """A running `mpirun`, whose output goes on to this program's; it has ended afterwards, whatever happens here.

    Args:
        command: its command line.
        said: gets the last lines of its stderr.
    """
    process = subprocess.Popen(
        command, env=launchable_environment(os.environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, errors="replace",
        # Ctrl-C comes to this program alone, which passes it on once.
        start_new_session=True,
    )  # fmt: skip
    readers = [
        threading.Thread(target=_forward, args=each, name="output", daemon=True)
        for each in ((process.stdout, sys.stdout, deque(maxlen=1)), (process.stderr, sys.stderr, said))
    ]
    for reader in readers:
        reader.start()
    try:
        yield process
    except BaseException:
        process.send_signal(signal.SIGINT)
        raise
    finally:
        try:
            process.wait(_END_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            # Its ranks leave as soon as their launcher is gone.
            process.kill()
            process.wait()
        for reader in readers:
            reader.join(_END_SECONDS)


def _forward(source: IO[str], target: IO[str], last: deque[str]) -> None:
    """Passes lines on until there are no more."""
    with source:
        for line in source:
            last.append(line.rstrip())
            # A program may have closed its output.
            with contextlib.suppress(ValueError, OSError):
                target.write(line)
                target.flush()


def _made(settings: Settings, pieces: Pieces) -> Pieces:
    """The pieces with those that settings choose by name: a rank may not know a class that was registered here."""
    return replace(
        pieces,
        trainer=with_settings(pieces.trainer, settings),
        sampler=pieces.sampler or settings.make_sampler(),
        test_sampler=pieces.test_sampler or settings.make_test_sampler(),
        optimizer=pieces.optimizer or settings.make_server_optimizer(),
        algorithm=pieces.algorithm or settings.make_algorithm(),
        schedule=pieces.schedule or settings.make_server_schedule(),
        filters=settings.make_filters() if pieces.filters is None else pieces.filters,
    )
