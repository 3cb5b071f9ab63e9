"""The life of a shard process: a resident worker, the only kind of process that imports Paddle.

Started by `simulator/shards/process.py`, driven over a pipe; what it does is in `shard`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from protos.errors import FLError, PeerLost
from simulator.launch.main_script import import_main
from simulator.logs import set_up_logging
from simulator.machine.address_space import lack_of_memory
from simulator.shards import jobs
from simulator.users.scratch import remove_folder
from simulator.worker.linger import SHORT_JOB_SECONDS, linger
from simulator.worker.shard import Shard

# A process that ends closes all its files, but one after another.
_ALL_CLOSE_SECONDS = 1.0


def _failure(shard: Shard, error: BaseException) -> jobs.Failed:
    memory = lack_of_memory(error)
    if memory is not None:
        return jobs.Failed(shard.where, memory, bad_input=True)
    # Readers speak of bad data with ValueError, the core with FLError, trainers with `TaskError`: one line is enough.
    bad_data = isinstance(error, ValueError) and shard.where.startswith("file ")
    if isinstance(error, FLError) or bad_data or getattr(error, "one_line", False):
        return jobs.Failed(shard.where, str(error), bad_input=True, peer_lost=isinstance(error, PeerLost))
    return jobs.Failed(shard.where, "".join(traceback.format_exception(error)).rstrip(), bad_input=False)


def _orphaned(lifeline: int, store: Path) -> NoReturn:
    """Leaves because nobody listens, and takes the files of the store along if the simulator is gone."""
    # A simulator that lives on needs its store: it starts another shard in this one's place.
    if select.select([lifeline], [], [], _ALL_CLOSE_SECONDS)[0]:
        remove_folder(store)
    os._exit(1)


def _die_with_parent(lifeline: int, store: Path) -> None:
    """Leaves as soon as the simulator is gone, however it went and whatever this shard is at."""

    def watch() -> None:
        os.read(lifeline, 1)  # returns only when the other end is closed
        _orphaned(lifeline, store)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _next_job(connection: Connection, shard: Shard, *, short: bool) -> Any:
    """Waits for a job; one that was told ahead begins as soon as its parameters are there.

    Args:
        connection: to the simulator.
        shard: gets ready for what was told.
        short: whether to look for it for a moment before falling asleep.

    Raises:
        EOFError, OSError: the simulator is gone.
    """
    while True:
        if short:
            linger(connection.fileno())
        job = connection.recv()
        if isinstance(job, jobs.Go):
            continue  # its job has begun without it, and is done
        if not isinstance(job, jobs.Ahead):
            return job
        coming = job.job

        def due(coming: jobs.TrainShare = coming) -> bool:
            return shard.is_due(coming)

        shard.get_ready(job, due)
        if short:
            linger(connection.fileno(), until=due)
        if due():
            return coming
        job = connection.recv()
        return coming if isinstance(job, jobs.Go) else job


def _take_settings(connection: Connection) -> jobs.ShardSettings:
    """What this shard is told at the start; if it cannot take that, it says so and waits for its end."""
    told, where = connection.recv(), ""
    try:
        # The reader and the trainer may be classes of the main script, as with multiprocessing.
        where = f"the import of {Path(told['sys_argv'][0]).name}"
        import_main(told)
        where = ""
        settings: jobs.ShardSettings = connection.recv()
    except BaseException as error:  # noqa: BLE001 - a script may do anything when it is imported, leave too
        with contextlib.suppress(EOFError, OSError):
            connection.send(_refusal(where, error))
            while True:
                connection.recv_bytes()
        os._exit(1)
    return settings


def _refusal(where: str, error: BaseException) -> jobs.Failed:
    if isinstance(error, FLError):
        return jobs.Failed("", str(error), bad_input=True)
    if isinstance(error, SystemExit):
        return jobs.Failed("", f"{where} in a worker process ended it (SystemExit {error.code})", bad_input=True)
    if not where and isinstance(error, AttributeError | ImportError):
        said = (
            f"a worker process finds no class of the reader or the trainer ({error}): define it at the top of a file, "
            'outside of functions and of if __name__ == "__main__"'
        )
        return jobs.Failed("", said, bad_input=True)
    where = f"{where} in a worker process" if where else "the start of a worker process"
    memory = lack_of_memory(error)
    if memory is not None:
        return jobs.Failed("", f"{where}: {memory}", bad_input=True)
    return jobs.Failed(where, "".join(traceback.format_exception(error)).rstrip(), bad_input=False)


def main(pipe: int, lifeline: int) -> None:
    """The life of a shard process.

    Args:
        pipe: file descriptor of the pipe to the simulator.
        lifeline: file descriptor that ends when the simulator does.
    """
    # Ctrl-C goes to the whole group; the simulator decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Paddle speaks of ccache and the like at import; nobody compiles anything here.
    warnings.filterwarnings("ignore", module="paddle")
    connection = Connection(pipe)
    settings = _take_settings(connection)
    _die_with_parent(lifeline, settings.store)
    set_up_logging(f"rank {settings.rank} shard {settings.index}")
    # While the ranks meet: the model needs it, and says so if it is not there.
    with contextlib.suppress(Exception):
        importlib.import_module("paddle")
    shard = Shard(settings)
    short = False
    while True:
        try:
            job = _next_job(connection, shard, short=short)
        except (EOFError, OSError):
            _orphaned(lifeline, settings.store)
        if isinstance(job, jobs.Stop):
            return
        began = time.perf_counter()
        try:
            answer: Any = jobs.Done(shard.run(job))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the simulator ends the run with it
            answer = _failure(shard, error)
        short = settings.tune and time.perf_counter() - began < SHORT_JOB_SECONDS
        try:
            connection.send(answer)
        except OSError:
            _orphaned(lifeline, settings.store)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
