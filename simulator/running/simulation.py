"""A simulator from start to end, through its stages: machine, joined, modelled, and then all days."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from protos.errors import FLError, PeerLost, RunStopped
from protos.sockets import UNIX
from scheduler.service.client import SchedulerClient
from scheduler.state.rounds import Rules
from scheduler.state.stopping import Stop
from simulator.checkpoints.private_saver import PrivateSaver
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.output.private_files import save_private
from simulator.running.endings import Endings
from simulator.running.machine import Closing, Machine, Member, Task, open_machine
from simulator.running.modelled import Modelled, join, make_model
from simulator.settings import Settings
from simulator.users.scratch import remove_abandoned

logger = logging.getLogger(__name__)

# Between two looks whether the run has failed, while a checkpoint is written.
_LOOK_SECONDS = 0.2


class Simulation:
    """One simulator of a run.

    Args:
        role: which rank this is.
        settings: of the run.
        rules: of its rounds.
        task: the reader and the trainer.
        scheduler: address of the scheduler.
        output: folder of the record, for private parameters.
        resumed: whether the run goes on from a checkpoint.
    """

    def __init__(
        self, role: FLSimRoleMaker, settings: Settings, rules: Rules, task: Task, scheduler: str, output: Path, *,
        resumed: bool,
    ) -> None:  # fmt: skip
        self._scheduler, self._endings, self._closing = scheduler, Endings(role.rank), Closing()
        client = SchedulerClient(scheduler, role.keys)
        self._member = Member(role, settings, rules, task, output, resumed, client, self._endings)
        self._closing.add(self._endings.let_go)
        self._closing.add(self._close_client)
        self._closing.add(self._remove_socket)

    def run(self) -> None:
        """Plays all days, or as many rounds as the run has if it stops before.

        Raises:
            FLError: of this simulator, of the scheduler, or RunEnded.
            ShardCrash: an exception in user code.
        """
        try:
            self._run()
        except PeerLost as lost:
            why = self._endings.why_lost(lost)
            if why is lost:
                raise
            raise why from lost

    @property
    def failure(self) -> str | None:
        """What went wrong here while the main thread was waiting for something else."""
        return self._endings.failure

    @property
    def stopped(self) -> Stop | None:
        """How the run stops before its last round, if it does."""
        return self._endings.stopped

    def request_stop(self, reason: str) -> None:
        """Asks the scheduler to stop the run; called from another thread."""
        try:
            self._member.client.request_stop(reason)
        except (FLError, ValueError) as error:
            # ValueError: this simulator has closed its connection, since it is done.
            logger.debug("the scheduler could not be asked to stop: %s", error)

    def report_failure(self, message: str) -> None:
        """Tells the scheduler why this simulator cannot go on, if it still listens."""
        self._member.report_failure(message)

    def close(self, *, at_once: bool = False) -> None:
        """Ends shards and servers and removes the scratch folder; `at_once` waits for nobody."""
        self._closing.close(at_once=at_once)

    # -- inside ------------------------------------------------------------------

    def _run(self) -> None:
        machine = open_machine(self._member, self._closing)
        saver: PrivateSaver | None = None
        try:
            modelled = make_model(join(machine), self._closing)
            saver = modelled.saver
            self._play(modelled)
        except RunStopped:
            self._leave_early(machine, saver)

    def _play(self, modelled: Modelled) -> None:
        member, joined = self._member, modelled.joined
        modelled.player(modelled.prepare_reader()).play()
        if modelled.saver is not None:
            modelled.saver.wait()
        if joined.machine.schema.known:
            save_private(joined.machine.store, member.output)
        member.client.exit()

    def _leave_early(self, machine: Machine, saver: PrivateSaver | None) -> None:
        """The run stops, and what was begun does not count: writes what it leaves behind of this simulator."""
        stop = self._endings.wait_for_stop()
        if stop.saves and saver is not None:
            # Users whose shard has trained the next round already are written as they were before it.
            saver.begin(stop.step)
            while not saver.wait(_LOOK_SECONDS):
                self._endings.check()
        if stop.finishes and machine.schema.known:
            save_private(machine.store, self._member.output, stop.step)
        self._member.client.exit()

    def _remove_socket(self) -> None:
        """Rank 0 removes the folder of its socket itself, unless it is killed.

        It may be, by a launcher, as soon as this rank has left: so that is waited for.  Not for
        long: it has been told of the end, and a rank that ends at once has an alarm.
        """
        mine = self._member.role.is_scheduler()
        if self._closing.at_once and not mine and self._scheduler.startswith(UNIX):
            with contextlib.suppress(OSError):
                remove_abandoned(Path(self._scheduler.removeprefix(UNIX)).parent, wait=True)

    def _close_client(self) -> None:
        """A scheduler that is elsewhere watches a run that has stopped until the end of its processes."""
        if self._endings.stopped is None or self._member.role.is_scheduler():
            self._member.client.close()
