"""A run as a function: it returns a result or raises, and leaves the process as it was."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from protos.errors import BadInput, FLError, InternalError, RunEnded, RunStopped
from scheduler.rules.algorithm import Algorithm
from scheduler.rules.filters import Filter
from scheduler.rules.samplers import Sampler, TestSampler
from scheduler.rules.server_optimizers import ServerOptimizer
from simulator.callbacks.callback import Callback
from simulator.contracts import Reader, Trainer
from simulator.in_force import Pieces
from simulator.launch.launch_environment import launch_of
from simulator.launch.main_script import refuse_in_shard
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.launch.signals import RunSignals, StoppedEarly
from simulator.logs import logging_to_a_person
from simulator.machine.open_files import raise_file_limit
from simulator.output.result import RunResult
from simulator.running.rank_run import Failure, RankRun
from simulator.running.ranks import run_ranks
from simulator.settings import Settings

logger = logging.getLogger(__name__)


def run(
    settings: Settings,
    *,
    reader: Reader,
    trainer: Trainer,
    sampler: Sampler | None = None,
    test_sampler: TestSampler | None = None,
    server_optimizer: ServerOptimizer | None = None,
    algorithm: Algorithm | None = None,
    filters: Sequence[Filter] | None = None,
    callbacks: Sequence[Callback] = (),
    ranks: int = 1,
) -> RunResult:
    """Plays a whole run and returns what has come of it.

    It may be called any number of times in a process, after a run that has failed too, from any
    thread, and from a notebook.  In the main thread, SIGTERM and SIGUSR1 have the run stop with a
    checkpoint, as they do on a page; what was done with signals before is done again afterwards.

    Args:
        settings: of the run.
        reader: how the files of a day become users: a `ReaderBase`.
        trainer: how one user trains: a `TrainerBase`.
        sampler: how cohorts are chosen, in place of the settings' `sampler`.
        test_sampler: which users are tested, in place of the settings'.
        server_optimizer: the server step, in place of the settings'.
        algorithm: how users train and what moves what they send, in place of the settings'.
        filters: what updates and their mean go through, in order, in place of the settings'.
        callbacks: what is told of the rounds and may have the run stop.
        ranks: 1 for this process alone; more have `mpirun` start a scheduler and simulators on this machine, where
            callbacks are told in the scheduler's process.

    Raises:
        FLError: the run was refused or has failed; the message is what a page would have printed.
        RunStopped: an FLError too: a signal had it stop before its last round.
        KeyboardInterrupt: it was interrupted; everything is closed.
    """
    refuse_in_shard()
    launch = launch_of(os.environ)
    if launch is not None and launch.size != 1:
        raise BadInput(f"run() starts its ranks itself: start the program without {launch.launcher}, and give ranks=N")
    if ranks < 1:
        raise BadInput(f"ranks={ranks}: a run has at least one")
    if filters is not None and not isinstance(filters, Sequence):
        raise BadInput(f"filters={filters!r}: it must be a list of filters")
    chosen = None if filters is None else tuple(filters)
    pieces = Pieces(reader, trainer, sampler, test_sampler, server_optimizer, algorithm, chosen)
    with ExitStack() as stack:
        stack.enter_context(logging_to_a_person("rank 0"))
        stack.enter_context(_more_files())
        signals = stack.enter_context(_signals(settings))
        try:
            if ranks > 1:
                return run_ranks(settings, pieces, callbacks, ranks, signals)
            return _play(RankRun(FLSimRoleMaker(alone=True), settings, pieces, callbacks), signals)
        except StoppedEarly as early:
            raise RunStopped(f"stopped by {early} before the run began") from None


def _play(rank_run: RankRun, signals: RunSignals | None) -> RunResult:
    failed: BaseException | None = None
    try:
        stop = rank_run.play(None if signals is None else signals.follow)
        result = None
        if stop is None or stop.finishes:
            for line in rank_run.complete(stop):
                logger.info("%s", line)
            result = rank_run.result(stop)
        if signals is not None:
            signals.ignore()
        way_on = rank_run.way_on
        rank_run.close()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, all must be closed
        # Nothing must interrupt that.
        if signals is not None:
            signals.ignore()
        failure, way_on = rank_run.explain(error), rank_run.way_on
        try:
            rank_run.abandon(failure)
        except Exception as late:  # noqa: BLE001 - the first failure counts
            logger.warning("not all of a run that has failed could be closed: %s", repr(late))
        failed = _raised(error, failure)
    if failed is not None:
        if way_on is not None:
            logger.warning("%s", way_on)
        raise failed
    if result is None:
        raise RunStopped("; ".join(line for line in (str(stop), way_on) if line is not None))
    return result


def _raised(error: BaseException, failure: Failure) -> BaseException:
    """What the caller gets.  Without the frames of the run: whoever keeps an error must not keep the run's memory."""
    error.__cause__ = error.__context__ = error.__traceback__ = None
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, FLError) and failure.message in (None, str(error))):
        return error
    return RunEnded(failure.message) if isinstance(error, RunEnded) else InternalError(failure.message)


@contextmanager
def _signals(settings: Settings) -> Iterator[RunSignals | None]:
    """The signals of the run; None in another thread than the main one, which gets none."""
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    signals = RunSignals(saves=settings.checkpoint_every != 0)
    try:
        # Ctrl-C stays as it is: a notebook, or whoever calls, may have its own way with it.
        signals.listen(interrupts=False)
        yield signals
    finally:
        signals.restore()


@contextmanager
def _more_files() -> Iterator[None]:
    """Raises the limit of open files for the time of the run."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_file_limit()
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
