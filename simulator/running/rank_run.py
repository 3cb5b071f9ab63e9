"""One rank's part in a run, from the checks before its start to its end: what a page and `run()` have in common."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.errors import BadInput, FLError, InternalError, RunEnded
from scheduler.rules.algorithm import Algorithm
from scheduler.rules.filters import Filter
from scheduler.state.rounds import Rules
from scheduler.state.stopping import STOPPED, Stop
from simulator.callbacks.callback import Callback
from simulator.checkpoints.meaning import differing, meaning_of
from simulator.days import list_days, takes_one_day
from simulator.in_force import Pieces, refuse_idle
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.launch.signals import StoppedEarly
from simulator.machine.address_space import check_address_space, lack_of_memory
from simulator.npz import read_npz
from simulator.output.result import RunResult
from simulator.running.machine import Task
from simulator.running.outcome import Outcome
from simulator.running.rank0 import SchedulerService
from simulator.running.reader_cache import check_cache
from simulator.running.scheduled_rates import scheduled_rates
from simulator.running.simulation import Simulation
from simulator.settings import Settings
from simulator.shards.sending import check_sendable

logger = logging.getLogger(__name__)

FAILED, INTERRUPTED = 1, 130


class Refused(BadInput):
    """What is wrong was found before anything was started; all ranks know it, and rank 0 says it."""


@dataclass(frozen=True)
class Failure:
    """Why a rank's part has ended before the run did.

    Attributes:
        status: exit status of the rank.
        message: what this rank says of it; None if another rank says it.
    """

    status: int
    message: str | None


@dataclass(frozen=True)
class _Checked:
    """A run that nothing is wrong with as far as can be seen before its start.

    Attributes:
        rules: of its rounds.
        meaning: what its results depend on.
    """

    rules: Rules
    meaning: dict[str, Any]


@dataclass(frozen=True)
class _Place:
    """Where a run takes place.

    Attributes:
        scheduler: address of the scheduler.
        output: folder of the record.
        resumed: whether it goes on from a checkpoint; rank 0 sees whether there is one.
    """

    scheduler: str
    output: Path
    resumed: bool


class RankRun:
    """A rank's part in one run.

    Args:
        role: which rank this is.
        settings: of the run.
        pieces: of the page.
        callbacks: of the page; they are told on rank 0.
    """

    def __init__(
        self, role: FLSimRoleMaker, settings: Settings, pieces: Pieces, callbacks: Sequence[Callback] = ()
    ) -> None:
        self._role, self._settings, self._pieces, self._callbacks = role, settings, pieces, tuple(callbacks)
        # What is open, from when it is on.
        self.service: SchedulerService | None = None
        self._simulation: Simulation | None = None

    def play(self, follow: Callable[[Callable[[str], None]], None] | None = None) -> Stop | None:
        """Plays this rank's part to its end.

        Args:
            follow: told, as soon as that can be asked for, what has the run stop; of that, the reason.

        Returns:
            How the run has stopped, if that was before its last round.

        Raises:
            Refused: nothing was started.
            BaseException: whatever goes wrong later; `explain` says what to do with it, and `abandon` must follow.
        """
        checked = self._check()
        place = self._open(checked)
        if self.service is not None and follow is not None:
            follow(self.service.request_stop)
        if self._role.is_simulator():
            self._simulation = Simulation(
                self._role, self._settings, checked.rules, Task(self._pieces.reader, self._pieces.trainer),
                place.scheduler, place.output, resumed=place.resumed,
            )  # fmt: skip
            if self.service is None and follow is not None:
                follow(self._simulation.request_stop)
            self._simulation.run()
            self._simulation.close()
        if self.service is None:
            return None if self._simulation is None else self._simulation.stopped
        return self.service.finish()

    def complete(self, stop: Stop | None) -> list[str]:
        """Writes what is left of a complete run; returns what is to be said of it, on rank 0; raises as `play`."""
        return self.service.complete(stop) if self.service is not None else []

    def result(self, stop: Stop | None) -> RunResult:
        """What has come of a complete run; on rank 0."""
        assert self.service is not None, "rank 0 has the service"
        return self.service.result(stop)

    def outcome(self, stop: Stop | None) -> Outcome:
        """The same, as another process of this machine can be told it."""
        assert self.service is not None, "rank 0 has the service"
        reason = None if stop is None else stop.reason
        return Outcome(str(self.service.record.folder), getattr(self._pieces.trainer, "result", None), reason)

    def close(self) -> None:
        """Gives back what is still held after `play` has returned."""
        if self.service is not None:
            self.service.close()

    @property
    def failure(self) -> str | None:
        """Why the run has failed, as far as this rank knows: rank 0 does, whoever it was."""
        return None if self.service is None else self.service.coordinator.failure

    @property
    def way_on(self) -> str | None:
        """How a run that has failed or stopped can go on, if it can; rank 0 knows."""
        return None if self.service is None else self.service.way_on

    # -- failures ----------------------------------------------------------------

    def explain(self, error: BaseException) -> Failure:
        """What an exception of `play` means for this rank."""
        if isinstance(error, StoppedEarly):
            return Failure(STOPPED, f"stopped by {error} before the run began")
        if isinstance(error, KeyboardInterrupt):
            return Failure(INTERRUPTED, "interrupted")
        if isinstance(error, InternalError):
            # An exception within the scheduler: it has the traceback and says it itself.
            return Failure(FAILED, self.service.coordinator.failure or str(error) if self.service is not None else None)
        if isinstance(error, RunEnded):
            return self._failed_elsewhere(error)
        if isinstance(error, FLError):
            return Failure(FAILED, str(error))
        return Failure(FAILED, lack_of_memory(error) or "".join(traceback.format_exception(error)).rstrip())

    def _failed_elsewhere(self, error: RunEnded) -> Failure:
        """Said by the rank it happened on; the scheduler says what only it has seen."""
        message = self._simulation.failure if self._simulation is not None else None
        mine = f"rank {self._role.rank}: "
        if message is None and str(error).startswith(mine):
            message = str(error).removeprefix(mine)
        if self.service is None:
            return Failure(FAILED, message)
        late = self.service.coordinator.interrupted
        return Failure(INTERRUPTED if late else FAILED, self.service.seen_alone or message)

    def abandon(self, failure: Failure) -> None:
        """Tells the other ranks why this one ends, and closes all that is open."""
        with ExitStack() as closing:
            if self.service is not None:
                closing.callback(self.service.abandon, failure.message or "the run has failed")
            if self._simulation is not None:
                closing.callback(self._simulation.close, at_once=True)
                if failure.message is not None:
                    self._simulation.report_failure(f"rank {self._role.rank}: {failure.message}")

    # -- before the start ----------------------------------------------------------

    def _check(self) -> _Checked:
        """Finds what is wrong before anything is started; the first rank with a problem speaks for all."""
        problem: str | None = None
        rules: Rules | None = None
        try:
            rules = self._look()
        except FLError as error:
            problem = str(error)
        meaning = self._describe(rules) if rules is not None else {}
        expected = self._role.share(meaning)
        if problem is None and expected:
            problem = differing(self._role.rank, meaning, expected)
        first = self._role.agree(problem)
        if first is not None:
            raise Refused(first)
        assert rules is not None, "without them there is a problem"
        return _Checked(rules, meaning)

    def _look(self) -> Rules:
        pieces, settings, role = self._pieces, self._settings, self._role
        if pieces.reader is None or pieces.trainer is None:
            raise FLError("set_reader and set_trainer come before run")
        pieces.take_settings(settings)
        check_address_space()
        check_sendable("reader", pieces.reader)
        check_sendable("trainer", pieces.trainer)
        role.prepare_network(settings.interface)
        if settings.interface is not None and not role.spans_hosts and role.is_scheduler():
            logger.info("--interface %s has nothing to do: all ranks are on one host", settings.interface)
        rules = self._make_rules()
        _check_kinds(rules)
        check_sendable("algorithm", rules.algorithm)
        for each in rules.filters:
            check_sendable("filter", each)
        refuse_idle(settings, pieces, rules)
        settings.check_record()
        if role.is_simulator():
            list_days(settings.data, one_day=takes_one_day(pieces.reader))
            check_cache(settings, pieces.reader)
            if settings.init is not None and role.rank == role.simulator_ranks[0]:
                read_npz(settings.init, "--init")
        return rules

    def _describe(self, rules: Rules) -> dict[str, Any]:
        """What the results depend on; says of what it knows the class alone."""
        meaning, vague = meaning_of(self._settings, self._pieces.reader, self._pieces.trainer, rules)
        if vague and self._role.is_scheduler():
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
            hold_out=settings.hold_out_users,
            asks_tests=any(each.asks_tests for each in self._callbacks),
            schedule=pieces.schedule or settings.make_server_schedule(),
        )

    def _open(self, checked: _Checked) -> _Place:
        """Starts the scheduler's server on rank 0 and tells all where it is."""
        self._role.secure()
        told: Any = None
        if self._role.is_scheduler():
            try:
                service = self.service = SchedulerService(
                    self._role, self._settings, checked.rules, checked.meaning, callbacks=self._callbacks,
                    result=getattr(self._pieces.trainer, "result", None),
                    higher_is_better=getattr(self._pieces.trainer, "higher_is_better", True),
                    rates=scheduled_rates(self._pieces.trainer, checked.rules),
                )  # fmt: skip
                told = (service.address, str(service.record.folder.absolute()), service.resumed, None)
            except FLError as error:
                told = ("", "", False, str(error))
        address, folder, resumed, problem = self._role.share(told)
        if problem is not None:
            raise Refused(problem)
        self._role.detach()
        return _Place(address, Path(folder), resumed)


def _check_kinds(rules: Rules) -> None:
    """Raises BadInput for a name, a class or another object in the place of an algorithm or a filter."""
    for what, piece, kind in (
        ("algorithm", rules.algorithm, Algorithm), *(("filter", each, Filter) for each in rules.filters),
    ):  # fmt: skip
        if not isinstance(piece, kind):
            shown = f"the class {piece.__name__}" if isinstance(piece, type) else repr(piece)[:80]
            raise BadInput(
                f"{what}: it must be an object of a subclass of {kind.__name__}, not {shown}; names are settings"
            )
