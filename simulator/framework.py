"""The framework a user's application drives: who this rank is, and the run from start to end."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterable
from typing import NoReturn

from protos.errors import BadInput, RunStopped
from scheduler.rules.algorithm import Algorithm
from scheduler.rules.filters import Filter
from scheduler.rules.samplers import Sampler, TestSampler
from scheduler.rules.server_optimizers import ServerOptimizer
from scheduler.state.stopping import Stop
from simulator.callbacks.callback import Callback
from simulator.contracts import Reader, Trainer
from simulator.in_force import Pieces
from simulator.launch.main_script import refuse_in_shard
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.launch.signals import RunSignals
from simulator.logs import set_up_logging
from simulator.machine.malloc_arenas import limit_arenas
from simulator.machine.open_files import raise_file_limit
from simulator.running.outcome import Outcome
from simulator.running.rank_run import RankRun, Refused
from simulator.settings import BAD_USAGE, Settings

logger = logging.getLogger(__name__)

# For the end of a rank whose run has failed.
_END_SECONDS = 8.0


class SimulationFramework:
    """One run; the same calls on every rank.

    Args:
        role_maker: which rank this is.
        settings: of the run.
    """

    def __init__(self, role_maker: FLSimRoleMaker, settings: Settings) -> None:
        self._role, self._settings = role_maker, settings
        self._pieces = Pieces()
        self._callbacks: list[Callback] = []
        self._signals = RunSignals(saves=settings.checkpoint_every != 0)

    def set_reader(self, reader: Reader) -> None:
        """Sets how the files of a day become users: a `ReaderBase`."""
        self._pieces.reader = reader

    def set_trainer(self, trainer: Trainer) -> None:
        """Sets how one user trains: a `TrainerBase`."""
        self._pieces.trainer = trainer

    def set_sampler(self, sampler: Sampler) -> None:
        """Sets how cohorts are chosen, in place of `--sampler`."""
        self._pieces.sampler = sampler

    def set_test_sampler(self, sampler: TestSampler) -> None:
        """Sets which users are tested, in place of `--test-sampler`."""
        self._pieces.test_sampler = sampler

    def set_fl_optimizer(self, optimizer: ServerOptimizer) -> None:
        """Sets the server step, in place of `--server-optimizer`."""
        self._pieces.optimizer = optimizer

    def set_algorithm(self, algorithm: Algorithm) -> None:
        """Sets how users train and what moves what they send, in place of `--algorithm`."""
        self._pieces.algorithm = algorithm

    def set_filters(self, *filters: Filter) -> None:
        """Sets what users' updates and their mean go through, in order, in place of `--filter`."""
        self._pieces.filters = filters

    def add_callback(self, callback: Callback) -> None:
        """Adds what is told of the rounds and may have the run stop."""
        self._callbacks.append(callback)

    def set_callbacks(self, callbacks: Iterable[Callback]) -> None:
        """Sets all that are told of the rounds, in place of those that were added."""
        self._callbacks = list(callbacks)

    def is_scheduler(self) -> bool:
        """Whether this rank is the global scheduler."""
        return self._role.is_scheduler()

    def is_simulator(self) -> bool:
        """Whether this rank is a simulator; with one rank it is both."""
        return self._role.is_simulator()

    def run(self) -> None:
        """Plays this rank's part, and ends the process with one clear message if the run fails."""
        refuse_in_shard()
        self._play()

    # -- inside ------------------------------------------------------------------

    def _play(self) -> None:
        set_up_logging(f"rank {self._role.rank}")
        raise_file_limit()
        if self._settings.tune:
            limit_arenas(os.environ)
        self._signals.listen()
        run = RankRun(self._role, self._settings, self._pieces, self._callbacks)
        try:
            stop = run.play(self._signals.follow)
            if stop is None or stop.finishes:
                for line in run.complete(stop):
                    logger.info("%s", line)
            else:
                self._signals.ignore()
            way_on = run.way_on
            run.close()
        except Refused as refused:
            self._refuse(refused)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, no rank may be left waiting
            self._end(run, error)
        self._finish(run, stop, way_on)

    def _finish(self, run: RankRun, stop: Stop | None, way_on: str | None) -> None:
        """Ends the process of a run that has stopped before its last round, unless that makes it complete.

        Only rank 0 leaves with the status then, as the last: launchers end all ranks when one leaves with a status.
        And not abruptly: see `FLSimRoleMaker.leave_together`.
        """
        if stop is None or stop.finishes:
            if self.is_scheduler():
                self._has_ended(run.outcome(stop))
            return
        if not self.is_scheduler():
            raise SystemExit(0)
        lines = [line for line in (f"rank 0: {stop}", way_on) if line is not None]
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        self._has_ended(Outcome(error=RunStopped.__name__, message="; ".join([str(stop), *lines[1:]])))
        raise SystemExit(stop.status)

    def _has_ended(self, outcome: Outcome) -> None:
        """Rank 0 knows what has come of the run."""

    def _refuse(self, refused: Refused) -> NoReturn:
        """Ends this process, and all ranks theirs, before anything was started."""
        if self.is_scheduler():
            sys.stderr.write(f"error: {refused}\n")
            self._has_ended(Outcome(error=BadInput.__name__, message=str(refused)))
        self._role.leave_together(BAD_USAGE)

    def _end(self, run: RankRun, error: BaseException) -> NoReturn:
        """Ends this rank, having told the others why; never returns, never hangs."""
        failure = run.explain(error)
        self._signals.ignore()
        # Not by a thread: it may be that none can be started, and then a channel of gRPC never closes.
        signal.signal(signal.SIGALRM, lambda number, frame: os._exit(failure.status))
        signal.setitimer(signal.ITIMER_REAL, _END_SECONDS)
        if run.service is not None:
            run.service.progress.end()
        lines = [None if failure.message is None else f"rank {self._role.rank}: {failure.message}", run.way_on]
        sys.stderr.write("".join(f"{line}\n" for line in lines if line is not None))
        sys.stderr.flush()
        run.abandon(failure)
        if self.is_scheduler():
            said = run.failure if failure.message is None else f"rank 0: {failure.message}"
            self._has_ended(Outcome(error=type(error).__name__, message=said or str(error)))
        self._role.leave(failure.status)
        raise AssertionError("leave does not return")
