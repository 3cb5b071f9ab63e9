"""The framework a user's application drives: who this rank is, and the run from start to end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from protos.errors import FLError, InternalError, RunEnded
from scheduler.rules.samplers import Sampler, TestSampler
from scheduler.rules.server_optimizers import ServerOptimizer
from scheduler.state.rounds import Rules
from scheduler.state.stopping import STOPPED
from simulator.checkpoints.meaning import differing, meaning_of
from simulator.days import list_days
from simulator.in_force import Pieces, refuse_idle
from simulator.launch.main_script import refuse_in_shard
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.launch.signals import RunSignals, StoppedEarly
from simulator.logs import set_up_logging
from simulator.machine.address_space import lack_of_memory
from simulator.machine.malloc_arenas import limit_arenas
from simulator.machine.open_files import raise_file_limit
from simulator.npz import read_npz
from simulator.run.rank0 import SchedulerService
from simulator.run.simulation import Simulation, Task
from simulator.settings import BAD_USAGE, Settings
from simulator.shards.crew import ShardCrash
from simulator.shards.sending import check_sendable

logger = logging.getLogger(__name__)

FAILED, INTERRUPTED = 1, 130
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
        self._service: SchedulerService | None = None
        self._simulation: Simulation | None = None
        self._signals = RunSignals(saves=settings.checkpoint_every != 0)
        self._rules: Rules | None = None
        self._meaning: dict[str, Any] = {}
        self._address = ""
        self._output = Path()
        # Whether the run goes on from a checkpoint; rank 0 sees whether there is one.
        self._resumed = False

    def set_reader(self, reader: Any) -> None:
        """Sets how the files of a day become users: a `ReaderBase`."""
        self._pieces.reader = reader

    def set_trainer(self, trainer: Any) -> None:
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

    def set_algorithm(self, algorithm: Any) -> None:
        """Sets what users train and what is made of it, in place of `--algorithm`."""
        self._pieces.algorithm = algorithm

    def set_filters(self, *filters: Any) -> None:
        """Sets what is done to each user's update and to their mean, in order, in place of `--filter`."""
        self._pieces.filters = filters

    def is_scheduler(self) -> bool:
        """Whether this rank is the global scheduler."""
        return self._role.is_scheduler()

    def is_simulator(self) -> bool:
        """Whether this rank is a simulator; with one rank it is both."""
        return self._role.is_simulator()

    def run(self) -> None:
        """Plays this rank's part, and ends the process with one clear message if the run fails."""
        refuse_in_shard()
        set_up_logging(f"rank {self._role.rank}")
        raise_file_limit()
        if self._settings.tune:
            limit_arenas(os.environ)
        self._signals.listen()
        try:
            self._check()
            self._open()
            if self._service is not None:
                self._signals.follow(self._service.request_stop)
            if self.is_scheduler():
                self.run_scheduler_service()
            if self.is_simulator():
                self.run_simulation()
            self._finish()
        except StoppedEarly as early:
            self._end(STOPPED, f"stopped by {early} before the run began")
        except KeyboardInterrupt:
            self._end(INTERRUPTED, "interrupted")
        except InternalError as error:
            # An exception within the scheduler: it has the traceback and says it itself.
            self._end(FAILED, self._service.coordinator.failure or str(error) if self._service is not None else None)
        except RunEnded as error:
            # Said by the rank it happened on; the scheduler says what only it has seen.
            message = self._simulation.failure if self._simulation is not None else None
            mine = f"rank {self._role.rank}: "
            if message is None and str(error).startswith(mine):
                message = str(error).removeprefix(mine)
            if self._service is not None:
                message = self._service.seen_alone or message
            late = self._service is not None and self._service.coordinator.interrupted
            self._end(INTERRUPTED if late else FAILED, message)
        except FLError as error:
            self._end(FAILED, str(error))
        except ShardCrash as error:
            self._end(FAILED, f"{error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, no rank may be left waiting
            self._end(FAILED, lack_of_memory(error) or traceback.format_exc().rstrip())

    def run_scheduler_service(self) -> None:
        """Serves until all simulators have left; returns at once if this rank is a simulator too."""
        assert self._service is not None, "run() opens the service"
        if not self.is_simulator():
            self._service.wait()

    def run_simulation(self) -> None:
        """Plays all days as a simulator."""
        assert self._rules is not None, "run() makes the rules"
        task = Task(self._pieces.reader, self._pieces.trainer)
        self._simulation = Simulation(
            self._role, self._settings, self._rules, task, self._address, self._output, resumed=self._resumed
        )
        if self._service is None:
            self._signals.follow(self._simulation.request_stop)
        self._simulation.run()
        self._simulation.close()

    # -- inside ------------------------------------------------------------------

    def _finish(self) -> None:
        """Says what has come of a run that has not failed; ends the process if it has stopped before its last round.

        Only rank 0 leaves with the status then, as the last: launchers end all ranks when one leaves with a status.
        And not abruptly: see `FLSimRoleMaker.leave_together`.
        """
        if self._service is None:
            if self._simulation is not None and self._simulation.stopped is not None:
                self._signals.ignore()
                raise SystemExit(0)
            return
        stop = self._service.finish()
        if stop is None:
            for line in self._service.results():
                logger.info("%s", line)
            return
        self._signals.ignore()
        lines = [f"rank 0: {stop}", self._service.way_on]
        sys.stderr.write("".join(f"{line}\n" for line in lines if line is not None))
        raise SystemExit(stop.status)

    def _check(self) -> None:
        """Finds what is wrong before anything is started; the first rank with a problem speaks for all."""
        problem: str | None = None
        try:
            if self._pieces.reader is None or self._pieces.trainer is None:
                raise FLError("set_reader and set_trainer come before run")
            self._pieces.take_settings(self._settings)
            check_sendable("reader", self._pieces.reader)
            check_sendable("trainer", self._pieces.trainer)
            self._role.prepare_network(self._settings.interface)
            if self._settings.interface is not None and not self._role.spans_hosts and self.is_scheduler():
                logger.info("--interface %s has nothing to do: all ranks are on one host", self._settings.interface)
            rules = self._rules = self._make_rules()
            check_sendable("algorithm", rules.algorithm)
            for each in rules.filters:
                check_sendable("filter", each)
            refuse_idle(self._settings, self._pieces, self._rules)
            self._settings.check_record()
            if self.is_simulator():
                list_days(self._settings.data)
                if self._settings.init is not None and self._role.rank == self._role.simulator_ranks[0]:
                    read_npz(self._settings.init, "--init")
        except FLError as error:
            problem = str(error)
        if self._rules is not None:
            self._meaning = self._describe(self._rules)
        expected = self._role.share(self._meaning)
        if problem is None and expected:
            problem = differing(self._role.rank, self._meaning, expected)
        first = self._role.agree(problem)
        if first is not None:
            if self.is_scheduler():
                sys.stderr.write(f"error: {first}\n")
            self._role.leave_together(BAD_USAGE)

    def _describe(self, rules: Rules) -> dict[str, Any]:
        """What the results depend on; says of what it knows the class alone."""
        meaning, vague = meaning_of(self._settings, self._pieces.reader, self._pieces.trainer, rules)
        if vague and self.is_scheduler():
            logger.warning("%s: known by class alone; a resumed run is not held to what is in there", ", ".join(vague))
        return meaning

    def _make_rules(self) -> Rules:
        settings, pieces = self._settings, self._pieces
        return Rules(
            seed=settings.seed,
            sampler=settings.make_sampler() if pieces.sampler is None else pieces.sampler,
            test_sampler=settings.make_test_sampler() if pieces.test_sampler is None else pieces.test_sampler,
            optimizer=settings.make_server_optimizer() if pieces.optimizer is None else pieces.optimizer,
            federated=settings.mode == "federated",
            rounds=settings.rounds,
            exchange=settings.exchange,
            algorithm=settings.make_algorithm() if pieces.algorithm is None else pieces.algorithm,
            filters=settings.make_filters() if pieces.filters is None else pieces.filters,
        )

    def _open(self) -> None:
        """Starts the scheduler's server on rank 0 and tells all where it is."""
        assert self._rules is not None, "_check makes the rules"
        self._role.secure()
        told: Any = None
        if self.is_scheduler():
            try:
                service = self._service = SchedulerService(self._role, self._settings, self._rules, self._meaning)
                told = (service.address, str(service.record.folder.absolute()), service.resumed, None)
            except FLError as error:
                told = ("", "", False, str(error))
        self._address, folder, self._resumed, problem = self._role.share(told)
        if problem is not None:
            if self.is_scheduler():
                sys.stderr.write(f"error: {problem}\n")
            self._role.leave_together(BAD_USAGE)
        self._output = Path(folder)
        self._role.detach()

    def _end(self, code: int, message: str | None) -> NoReturn:
        """Ends this rank, having told the others why; never returns, never hangs."""
        self._signals.ignore()
        # Not by a thread: it may be that none can be started, and then a channel of gRPC never closes.
        signal.signal(signal.SIGALRM, lambda number, frame: os._exit(code))
        signal.setitimer(signal.ITIMER_REAL, _END_SECONDS)
        if self._service is not None:
            self._service.progress.end()
        if message is not None:
            sys.stderr.write(f"rank {self._role.rank}: {message}\n")
        if self._service is not None and self._service.way_on is not None:
            sys.stderr.write(f"{self._service.way_on}\n")
        sys.stderr.flush()
        if self._simulation is not None:
            if message is not None:
                self._simulation.report_failure(f"rank {self._role.rank}: {message}")
            self._simulation.close(at_once=True)
        if self._service is not None:
            self._service.abandon(message or "the run has failed")
        self._role.leave(code)
        raise AssertionError("leave does not return")
