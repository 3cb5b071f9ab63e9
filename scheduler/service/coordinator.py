"""A run as its simulators come to it: they join, play its rounds, and leave; or it stops, or fails, for all.

All is done under one lock, in `run_lock`; what is done in a run's days is in `round_calls` and `param_calls`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from protos.codec import MAX_NAME
from protos.errors import AlreadyDone, FLError, NotFound, RunEnded, RunStopped, TooLarge, WrongState
from scheduler.service.live_state import LiveState
from scheduler.service.members import Members
from scheduler.service.messages import Layout, SimulatorInfo
from scheduler.service.notifier import Listener, Notifier
from scheduler.service.param_calls import ParamCalls
from scheduler.service.posts import Posts
from scheduler.service.round_calls import RoundCalls
from scheduler.service.run_lock import RunLock
from scheduler.state.checkpoints import Offer, Schedule, Segment
from scheduler.state.plan import Plan
from scheduler.state.round_state import RoundState
from scheduler.state.rounds import Decision, RoundRecord, Rules
from scheduler.state.stopping import GRACE_SECONDS, Stop, Stopping, StopRequest

# Of what a failed simulator says; a whole traceback.
MAX_FAILURE = 64 << 10


class Coordinator:
    """Thread-safe state of one run.

    Args:
        rules: of the run.
        ranks: of the simulators.
        listener: writes the record, the progress and the checkpoints.
        plan: of the run, asked with the days of all simulators.
        schedule: when checkpoints are made; None for never.
        grace: seconds that a run has from when it is asked to stop.
        decide: asked with the lock held after each round and test: whether the run goes on, and keeps its parameters.

    Attributes:
        rules: of the run.
        rounds: what simulators do in the days of the run.
        params: what they do with the shared parameters.
    """

    def __init__(
        self, rules: Rules, ranks: Sequence[int], listener: Listener, plan: Callable[[Sequence[str]], Plan],
        schedule: Schedule | None = None, grace: float = GRACE_SECONDS,
        decide: Callable[[RoundRecord], Decision] | None = None,
    ) -> None:  # fmt: skip
        self.rules = rules
        self._plan_of, self._listener, self._grace = plan, listener, grace
        self._run = run = RunLock(ranks)
        self._members, self._posts, self._live = Members(run), Posts(run), LiveState(run)
        self._stopping = Stopping(
            run.lock, over=lambda: run.failure is not None or self._is_over(), decide=self._state_to_leave,
            told=self._on_stop, fail=self.fail,
        )  # fmt: skip
        self._notifier = Notifier(
            listener, schedule or Schedule(0), len(run.ranks), lock=run.lock,
            ended=lambda: run.failure is not None or self._members.all_left,
            told=run.wake_for_end, room=run.wake, fail=self.fail,
        )  # fmt: skip
        self.rounds = RoundCalls(self._live, self._notifier, self._stopping, self._members.check_day, decide)
        self.params = ParamCalls(
            self._live,
            self._notifier,
            lambda params, frozen: self._tell_at_once(lambda: listener.on_initial(params, frozen)),
        )
        self._restoring: dict[int, int] = {}
        self._restored = False
        self._at_close: list[Callable[[], None]] = []
        self._notifier.start()

    # -- joining and leaving ---------------------------------------------------

    def register(self, info: SimulatorInfo) -> Layout:
        """Takes a simulator in; returns when all are."""
        with self._run:
            if self._members.join(info):
                layout = self._members.layout
                self._live.state = RoundState(self.rules, self._members.lanes, self._plan_of(layout.days))
                self._tell_at_once(lambda: self._listener.on_layout(layout))
            self._run.wake()
            self._run.wait(lambda: self._live.state is not None)
            return self._members.layout

    def exchange(self, rank: int, key: str, payload: bytes) -> dict[int, bytes]:
        """See `Posts.exchange`."""
        with self._run.turn(rank):
            return self._posts.exchange(rank, key, payload, self._members.left)

    def note_watch(self, rank: int) -> None:
        """Notes that a simulator lives; its first watch is the one that tells when it does not."""
        with self._run:
            self._members.watch(rank)

    def watch(self) -> Stop | None:
        """Returns when the run is over, or what was decided when it stops early; raises when it has failed."""
        with self._run:
            self._run.wait_for_end(lambda: self._stopping.decided is not None or self._members.all_left)
            return self._stopping.decided

    def watch_stop(self, rank: int) -> None:
        """As `watch`, of a run that stops: returns when the simulator is gone, raises when the run fails yet."""
        with self._run:
            self._run.wait_for_end(lambda: self._is_over() and rank in self._members.gone)

    def report_failure(self, rank: int, message: str) -> None:
        """A simulator cannot go on."""
        self._run.check_rank(rank)
        self.fail(message if len(message) <= MAX_FAILURE else f"{message[:MAX_FAILURE]} ...")

    def drop(self, rank: int) -> None:
        """A simulator's watch has ended: unless it said good-bye, the run has failed."""
        with self._run:
            lost = self._members.lose(rank)
            self._run.wake_for_end()
        if lost:
            self.fail(f"rank {rank} is gone: its process died or its host cannot be reached")

    def leave(self, rank: int) -> None:
        """A simulator is done; of a run that stops early, returns when all are and its checkpoint is on disk.

        Raises:
            WrongState: the others still need it, and would wait for it for ever.
        """
        with self._run.turn(rank):
            stop = self._stopping.decided
            if stop is None:
                self.rounds.check_done(rank)
                self._posts.check_none_waits(rank)
            elif self._notifier.lacks(rank, stop.step):
                # It was on its way out when that was decided.
                raise RunStopped(str(stop)) if self._run.failure is None else RunEnded(self._run.failure)
            self._members.left.add(rank)
            self._wake_all()
            if stop is not None:
                self._run.wait_for_end(self._is_over)

    def fail(self, message: str) -> None:
        """Ends the run for all; only the first failure is kept."""
        with self._run:
            if self._run.failure is None and not self._is_over():
                self._run.failure = message
            self._wake_all()

    @property
    def failure(self) -> str | None:
        """Why the run has failed, None while it has not."""
        with self._run:
            return self._run.failure

    def wait_finished(self) -> None:
        """Blocks until all simulators have left and the listener knows all rounds.

        Raises:
            RunEnded: the run has failed.
        """
        with self._run:
            self._run.wait_for_end(self._is_over)

    def check_lanes(self, rank: int, sums: int) -> None:
        """See `Members.check_lanes`."""
        self._members.check_lanes(rank, sums)

    def at_close(self, close: Callable[[], None]) -> None:
        """Has something closed with this."""
        self._at_close.append(close)

    def close(self) -> None:
        """Lets go of threads, timers and memory; the run is over or has failed, and no call is under way."""
        with self._run:
            self._stopping.close()
        self._notifier.join()
        with self._run:
            if self._live.state is not None:
                self._live.state.model.close()
            # Not when it is collected: a program that has one run after another would keep the memory of many.
            self._live.state = None
            for close in self._at_close:
                close()

    # -- what is decided as the run goes -----------------------------------------

    def ask_stop(self, rank: int, reason: str) -> None:
        """A simulator was told to stop the run, by `reason` such as "SIGTERM"; see `stop`."""
        self._run.check_rank(rank)
        if not 0 < len(reason) <= MAX_NAME:
            raise TooLarge(f"rank {rank}: a reason to stop has {len(reason)} characters; 1 to {MAX_NAME} are allowed")
        self.stop(StopRequest(f"{reason} at rank {rank}", grace=self._grace))

    def stop(self, request: StopRequest) -> None:
        """Ends the run for all before its last round.  Here alone it is decided after which, and all are told.

        A round that is under way is finished, unless that takes half of the grace time; a test is given up, since a
        resumed run does it again.  A checkpoint is made of the state that is left behind.
        """
        with self._run:
            # A run whose simulators leave already is about to be over anyway.
            if not self._members.left:
                state = self._live.state
                self._stopping.ask(request, at_once=state is None or not state.trains)

    def ask_test(self) -> None:
        """Has a test come next, after the round that is just over.

        For whoever is told of a round before the simulators are, with the lock held, so that all of them are told the
        same; in a run whose rules have `asks_tests`.

        Raises:
            WrongState: they know already what comes after that round, the run has no such rules, or the day no test.
        """
        self.rounds.ask_test()

    @property
    def stopped(self) -> Stop | None:
        """How the run stops early, None if it does not."""
        with self._run:
            return self._stopping.decided

    @property
    def interrupted(self) -> bool:
        """Whether the run has failed since it could not stop in time."""
        with self._run:
            return self._stopping.late

    def wait_gone(self, seconds: float) -> None:
        """Returns when the processes of all simulators have ended, or this much later."""
        with self._run:
            self._run.wait_seconds(lambda: self._members.all_gone, seconds)

    def _state_to_leave(self) -> tuple[int, bool]:
        """Rounds that are done, and whether a checkpoint of the state after them is on its way."""
        state = self._live.state
        return (0, False) if state is None else (state.step, self._notifier.save_now(state))

    def _on_stop(self) -> None:
        self._run.stop = self._stopping.error
        self._wake_all()

    # -- checkpoints -------------------------------------------------------------

    def add_segments(self, rank: int, step: int, segments: Sequence[Segment]) -> None:
        """See `Notifier.add_segments`."""
        with self._run:
            self._run.check_rank(rank)
            self._notifier.add_segments(rank, step, segments)

    def offers(self, rank: int) -> Sequence[Offer]:
        """The checkpoints the run may go on from, newest first."""
        self._run.check_rank(rank)
        return self._listener.offers()

    def restore(self, rank: int, step: int) -> None:
        """Goes on from the checkpoint of `step` when all simulators have chosen it."""
        with self._live.turn(rank) as state:
            if rank in self._restoring:
                raise AlreadyDone(f"rank {rank} has already chosen a checkpoint")
            dates = {offer.step: offer.date for offer in self._listener.offers()}
            if step not in dates:
                raise NotFound(f"there is no checkpoint after {step} rounds")
            state.plan.check_resumed(step, dates[step])
            if any(other != step for other in self._restoring.values()):
                raise WrongState(f"rank {rank} chose the checkpoint after {step} rounds, others {self._restoring}")
            self._restoring[rank] = step
            if len(self._restoring) == len(self._run.ranks):
                state.restore(self._listener.on_restore(step))
                self._restored = True
            self._run.wake()
            self._run.wait(lambda: self._restored)

    # -- inside ------------------------------------------------------------------

    def _tell_at_once(self, tell: Callable[[], None]) -> None:
        """Tells the listener while the caller waits; what goes wrong is the scheduler's own failure."""
        try:
            tell()
        except FLError as error:
            self.fail(str(error))
            raise RunEnded(str(error)) from error

    def _is_over(self) -> bool:
        """Whether all have left, the listener knows everything, and checkpoints that were begun are there."""
        return self._members.all_left and self._notifier.all_told and self._notifier.all_saved

    def _wake_all(self) -> None:
        self._run.wake_all()
        self._notifier.wake()
