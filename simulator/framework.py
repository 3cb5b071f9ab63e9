"""The framework a user's application drives: who this rank is, and the run from start to end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from protos.errors import FLError, InternalError, RunEnded
from scheduler.rounds import Rules
from scheduler.samplers import Sampler, TestSampler
from scheduler.server_optimizers import ServerOptimizer
from simulator.days import list_days
from simulator.logs import set_up_logging
from simulator.meaning import differing, meaning_of
from simulator.open_files import raise_file_limit
from simulator.rank_memory import limit_arenas
from simulator.record import read_npz
from simulator.role_maker import FLSimRoleMaker
from simulator.scheduler_service import SchedulerService
from simulator.settings import BAD_USAGE, Settings
from simulator.shard_crew import ShardCrash
from simulator.simulation import Simulation, Task

logger = logging.getLogger(__name__)

FAILED, INTERRUPTED = 1, 130


class SimulationFramework:
    """One run; the same calls on every rank.

    Args:
        role_maker: which rank this is.
        settings: of the run.
    """

    def __init__(self, role_maker: FLSimRoleMaker, settings: Settings) -> None:
        self._role, self._settings = role_maker, settings
        self._reader: Any = None
        self._trainer: Any = None
        self._sampler: Sampler | None = None
        self._test_sampler: TestSampler | None = None
        self._optimizer: ServerOptimizer | None = None
        self._service: SchedulerService | None = None
        self._simulation: Simulation | None = None
        self._rules: Rules | None = None
        self._meaning: dict[str, Any] = {}
        self._address = ""
        self._output = Path()

    def set_reader(self, reader: Any) -> None:
        """Sets how the files of a day become users: a `ReaderBase`."""
        self._reader = reader

    def set_trainer(self, trainer: Any) -> None:
        """Sets how one user trains: a `TrainerBase`."""
        self._trainer = trainer

    def set_sampler(self, sampler: Sampler) -> None:
        """Sets how cohorts are chosen, in place of `--sampler`."""
        self._sampler = sampler

    def set_test_sampler(self, sampler: TestSampler) -> None:
        """Sets which users are tested, in place of `--test-sampler`."""
        self._test_sampler = sampler

    def set_fl_optimizer(self, optimizer: ServerOptimizer) -> None:
        """Sets the server step, in place of `--server-optimizer`."""
        self._optimizer = optimizer

    def is_scheduler(self) -> bool:
        """Whether this rank is the global scheduler."""
        return self._role.is_scheduler()

    def is_simulator(self) -> bool:
        """Whether this rank is a simulator; with one rank it is both."""
        return self._role.is_simulator()

    def run(self) -> None:
        """Plays this rank's part, and ends the process with one clear message if the run fails."""
        set_up_logging(f"rank {self._role.rank}")
        raise_file_limit()
        if self._settings.tune:
            limit_arenas(os.environ)
        for number in (signal.SIGINT, signal.SIGTERM):
            # SIGINT too: a script's background job starts with it ignored, and a launcher passes it on.
            signal.signal(number, _interrupt)
        try:
            self._check()
            self._open()
            if self.is_scheduler():
                self.run_scheduler_service()
            if self.is_simulator():
                self.run_simulation()
            if self._service is not None:
                for line in self._service.finish():
                    logger.info("%s", line)
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
            self._end(FAILED, message)
        except FLError as error:
            self._end(FAILED, str(error))
        except ShardCrash as error:
            self._end(FAILED, f"{error}")
        except Exception:  # noqa: BLE001 - whatever it is, no rank may be left waiting
            self._end(FAILED, traceback.format_exc().rstrip())

    def run_scheduler_service(self) -> None:
        """Serves until all simulators have left; returns at once if this rank is a simulator too."""
        assert self._service is not None, "run() opens the service"
        if not self.is_simulator():
            self._service.wait()

    def run_simulation(self) -> None:
        """Plays all days as a simulator."""
        assert self._rules is not None, "run() makes the rules"
        task = Task(self._reader, self._trainer)
        self._simulation = Simulation(self._role, self._settings, self._rules, task, self._address, self._output)
        self._simulation.run()
        self._simulation.close()

    # -- inside ------------------------------------------------------------------

    def _check(self) -> None:
        """Finds what is wrong before anything is started; the first rank with a problem speaks for all."""
        try:
            problem = self._role.problem
            if self._reader is None or self._trainer is None:
                raise FLError("set_reader and set_trainer come before run")
            self._role.prepare_network(self._settings.interface)
            self._rules = self._make_rules()
            if self.is_simulator():
                list_days(self._settings.data)
                if self._settings.init is not None and self._role.rank == self._role.simulator_ranks[0]:
                    read_npz(self._settings.init, "--init")
        except FLError as error:
            problem = str(error)
        if self._rules is not None:
            self._meaning = meaning_of(self._settings, self._rules)
        expected = self._role.share(self._meaning)
        if problem is None and expected:
            problem = differing(self._role.rank, self._meaning, expected)
        first = self._role.agree(problem)
        if first is not None:
            if self.is_scheduler():
                sys.stderr.write(f"error: {first}\n")
            self._role.leave_together(BAD_USAGE)

    def _make_rules(self) -> Rules:
        settings = self._settings
        return Rules(
            seed=settings.seed,
            sampler=self._sampler or settings.make_sampler(),
            test_sampler=self._test_sampler or settings.make_test_sampler(),
            optimizer=self._optimizer or settings.make_server_optimizer(),
            federated=settings.mode == "federated",
            rounds=settings.rounds,
            exchange=settings.exchange,
        )

    def _open(self) -> None:
        """Starts the scheduler's server on rank 0 and tells all where it is."""
        assert self._rules is not None, "_check makes the rules"
        self._role.secure()
        told: Any = None
        if self.is_scheduler():
            settings = self._settings
            output = settings.resume or settings.output or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
            try:
                self._service = SchedulerService(self._role, self._settings, self._rules, self._meaning, output)
                told = (self._service.address, str(output.absolute()), None)
            except FLError as error:
                told = ("", "", str(error))
        self._address, folder, problem = self._role.share(told)
        if problem is not None:
            if self.is_scheduler():
                sys.stderr.write(f"error: {problem}\n")
            self._role.leave_together(BAD_USAGE)
        self._output = Path(folder)
        self._role.detach()

    def _end(self, code: int, message: str | None) -> NoReturn:
        """Ends this rank, having told the others why; never returns, never hangs."""
        # A second Ctrl-C must not stop the cleaning.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
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


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt
