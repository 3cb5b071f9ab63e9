"""The scheduler's one lock: registration, barriers, rounds and the end of the run.

Every wait ends when what it waits for is there or when the run has failed, so no
rank hangs behind another that is gone.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from protos.channel import wait_in_call
from protos.codec import MAX_NAME, Tensors, TensorSpec
from protos.errors import (
    AlreadyDone,
    BadInput,
    FLError,
    Forbidden,
    NotFound,
    PeerLost,
    RunEnded,
    RunStopped,
    TooLarge,
    WrongState,
)
from protos.gate import caller_rank
from protos.shared_arrays import MemoryHandle
from scheduler.rules.exact_sum import Sums
from scheduler.rules.metrics import UserResult
from scheduler.rules.samplers import Round
from scheduler.service.messages import Layout, SimulatorInfo
from scheduler.service.notifier import Listener, Notifier
from scheduler.state.checkpoints import Offer, Schedule, Segment
from scheduler.state.read_users import ReadUsers
from scheduler.state.round_state import MAX_AHEAD, RoundState
from scheduler.state.rounds import Decision, RoundRecord, Rules, RunEnd, Share, Timings
from scheduler.state.stopping import GRACE_SECONDS, Stop, Stopping, StopRequest

# Rounds ahead of the one that is due that a simulator of ours may wait for.
HORIZON = 4 * MAX_AHEAD
# Of one simulator: calls that wait at once, beside its watch.
MAX_WAITING = 4
# Of what a failed simulator says; a whole traceback.
MAX_FAILURE = 64 << 10


class Coordinator:
    """Thread-safe state of one run.

    Args:
        rules: of the run.
        ranks: of the simulators.
        listener: writes the record, the progress and the checkpoints.
        end: what the run comes to, asked with the days of all simulators.
        schedule: when checkpoints are made; None for never.
        grace: seconds that a run has from when it is asked to stop.
        decide: asked with the lock held after each round and test: whether the run goes on, and keeps its parameters.
    """

    def __init__(
        self, rules: Rules, ranks: Sequence[int], listener: Listener, end: Callable[[Sequence[str]], RunEnd],
        schedule: Schedule | None = None, grace: float = GRACE_SECONDS,
        decide: Callable[[RoundRecord], Decision] | None = None,
    ) -> None:  # fmt: skip
        self.rules = rules
        self._end_of, self._end = end, RunEnd(0, None)
        self._ranks = tuple(sorted(ranks))
        self._listener = listener
        lock = threading.RLock()
        # One lock, two reasons to wait: a round's push does not wake those who wait for the end.
        self._changed = threading.Condition(lock)
        self._over = threading.Condition(lock)
        self._infos: dict[int, SimulatorInfo] = {}
        self._state: RoundState | None = None
        self._posted: dict[str, dict[int, bytes]] = {}
        self._read: dict[str, set[int]] = {}
        self._waiting: Counter[int] = Counter()
        self._watching: set[int] = set()
        self._left: set[int] = set()
        # Of a run that stopped: simulators whose processes have ended.
        self._gone: set[int] = set()
        self._streams: dict[int, bool] = {}
        self._group: tuple[int, ...] | None = None
        self._tests: dict[Round, RoundRecord] = {}
        self._failure: str | None = None
        self._grace, self._decide = grace, decide
        self._stopping = Stopping(
            lock, over=lambda: self._failure is not None or self._is_over(), decide=self._state_to_leave,
            told=self._wake_all, fail=self.fail,
        )  # fmt: skip
        self._notifier = Notifier(
            listener, schedule or Schedule(0), len(self._ranks), lock=lock,
            ended=lambda: self._failure is not None or self._all_left(),
            told=self._over.notify_all, room=self._wake, fail=self.fail,
        )  # fmt: skip
        self._restoring: dict[int, int] = {}
        self._restored = False
        self._at_close: list[Callable[[], None]] = []
        self._notifier.start()

    # -- joining and leaving ---------------------------------------------------

    def register(self, info: SimulatorInfo) -> Layout:
        """Takes a simulator in; returns when all are."""
        with self._changed:
            self._check_rank(info.rank)
            if info.rank in self._infos:
                raise AlreadyDone(f"rank {info.rank} has already joined")
            self._infos[info.rank] = info
            if len(self._infos) == len(self._ranks):
                self._end = self._end_of(self._layout().days)
                self._state = RoundState(self.rules, {r: i.shards for r, i in self._infos.items()})
                self._tell_at_once(lambda: self._listener.on_layout(self._layout()))
            self._wake()
            self._wait(lambda: self._state is not None)
            return self._layout()

    def exchange(self, rank: int, key: str, payload: bytes) -> dict[int, bytes]:
        """Posts bytes under a key; returns everybody's when all have posted."""
        if not 0 < len(key) <= MAX_NAME:
            raise TooLarge(f"rank {rank}: an exchange's key has {len(key)} characters; 1 to {MAX_NAME} are allowed")
        with self._turn(rank):
            if rank in self._posted.get(key, ()):
                raise AlreadyDone(f"rank {rank} has already posted {key!r}")
            if self._left:
                raise WrongState(
                    f"rank {rank} posts {key!r}, which ranks {sorted(self._left)}, who have left, never will"
                )
            posted = self._posted.setdefault(key, {})
            posted[rank] = payload
            self._wake()
            try:
                self._wait(lambda: len(posted) == len(self._ranks))
            except PeerLost:
                # Nobody waits for it any more: it counts as not said, and is not kept.
                del posted[rank]
                if not posted:
                    del self._posted[key]
                raise
            read = self._read.setdefault(key, set())
            read.add(rank)
            if len(read) == len(self._ranks):
                del self._posted[key], self._read[key]
            return dict(sorted(posted.items()))

    def note_watch(self, rank: int) -> None:
        """Notes that a simulator lives; its first watch is the one that tells when it does not."""
        with self._changed:
            self._check_rank(rank)
            if rank in self._watching:
                raise AlreadyDone(f"rank {rank} is watching already")
            self._watching.add(rank)

    def watch(self) -> Stop | None:
        """Returns when the run is over, or what was decided when it stops early; raises when it has failed."""
        with self._changed:
            self._wait(lambda: self._stopping.decided is not None or self._all_left(), self._over)
            return self._stopping.decided

    def watch_stop(self, rank: int) -> None:
        """As `watch`, of a run that stops: returns when the simulator is gone, raises when the run fails yet."""
        with self._changed:
            self._wait(lambda: self._is_over() and rank in self._gone, self._over)

    def report_failure(self, rank: int, message: str) -> None:
        """A simulator cannot go on."""
        self._check_rank(rank)
        self.fail(message if len(message) <= MAX_FAILURE else f"{message[:MAX_FAILURE]} ...")

    def drop(self, rank: int) -> None:
        """A simulator's watch has ended: unless it said good-bye, the run has failed."""
        with self._changed:
            gone = rank in self._watching and rank not in self._left
            self._gone.add(rank)
            self._over.notify_all()
        if gone:
            self.fail(f"rank {rank} is gone: its process died or its host cannot be reached")

    def leave(self, rank: int) -> None:
        """A simulator is done; of a run that stops early, returns when all are and its checkpoint is on disk.

        Raises:
            WrongState: the others still need it, and would wait for it for ever.
        """
        with self._turn(rank):
            stop = self._stopping.decided
            if stop is None:
                with self._round_state() as state:
                    self._check_done(rank, state)
            elif self._notifier.lacks(rank, stop.step):
                # It was on its way out when that was decided.
                raise RunStopped(str(stop)) if self._failure is None else RunEnded(self._failure)
            self._left.add(rank)
            self._wake_all()
            if stop is not None:
                self._wait(self._is_over, self._over)

    def _check_done(self, rank: int, state: RoundState) -> None:
        """Raises WrongState if a simulator has still to do with the others."""
        if state.step < self._end.steps:
            raise WrongState(f"rank {rank} cannot leave: {state.step} of {self._end.steps} rounds of the run are done")
        last = self._end.last_test
        if last is not None and not any(at.date == last and at.step == state.step for at in self._tests):
            raise WrongState(f"rank {rank} cannot leave: the test on {last} is still to come")
        for key, posted in self._posted.items():
            if rank not in posted:
                raise WrongState(f"rank {rank} cannot leave: others wait until it posts {key!r}")

    def fail(self, message: str) -> None:
        """Ends the run for all; only the first failure is kept."""
        with self._changed:
            if self._failure is None and not self._is_over():
                self._failure = message
            self._wake_all()

    @property
    def failure(self) -> str | None:
        """Why the run has failed, None while it has not."""
        with self._changed:
            return self._failure

    def wait_finished(self) -> None:
        """Blocks until all simulators have left and the listener knows all rounds.

        Raises:
            RunEnded: the run has failed.
        """
        with self._changed:
            self._wait(self._is_over, self._over)

    def at_close(self, close: Callable[[], None]) -> None:
        """Has something closed with this."""
        self._at_close.append(close)

    def close(self) -> None:
        """Lets go of threads, timers and memory; the run is over or has failed, and no call is under way."""
        with self._changed:
            self._stopping.close()
        self._notifier.join()
        with self._changed:
            if self._state is not None:
                self._state.model.close()
            # Not when it is collected: a program that has one run after another would keep the memory of many.
            self._state = None
            for close in self._at_close:
                close()

    # -- stopping ----------------------------------------------------------------

    def ask_stop(self, rank: int, reason: str) -> None:
        """A simulator was told to stop the run, by `reason` such as "SIGTERM"; see `stop`."""
        self._check_rank(rank)
        if not 0 < len(reason) <= MAX_NAME:
            raise TooLarge(f"rank {rank}: a reason to stop has {len(reason)} characters; 1 to {MAX_NAME} are allowed")
        self.stop(StopRequest(f"{reason} at rank {rank}", grace=self._grace))

    def stop(self, request: StopRequest) -> None:
        """Ends the run for all before its last round.  Here alone it is decided after which, and all are told.

        A round that is under way is finished, unless that takes half of the grace time; a test is given up, since a
        resumed run does it again.  A checkpoint is made of the state that is left behind.
        """
        with self._changed:
            # A run whose simulators leave already is about to be over anyway.
            if not self._left:
                self._stopping.ask(request, at_once=self._state is None or not self._state.trains)

    @property
    def stopped(self) -> Stop | None:
        """How the run stops early, None if it does not."""
        with self._changed:
            return self._stopping.decided

    @property
    def interrupted(self) -> bool:
        """Whether the run has failed since it could not stop in time."""
        with self._changed:
            return self._stopping.late

    def wait_gone(self, seconds: float) -> None:
        """Returns when the processes of all simulators have ended, or this much later."""
        with self._changed:
            self._over.wait_for(lambda: self._gone >= set(self._ranks), seconds)

    def _state_to_leave(self) -> tuple[int, bool]:
        """Rounds that are done, and whether a checkpoint of the state after them is on its way."""
        state = self._state
        return (0, False) if state is None else (state.step, self._notifier.save_now(state))

    # -- users and parameters --------------------------------------------------

    def add_users(self, rank: int, date: str, split: str, users: ReadUsers) -> list[str]:
        """See `RoundState.add_users`; returns, when all simulators have told theirs, whom this one has to weigh."""
        with self._turn(rank), self._round_state() as state:
            self._check_day(date)
            state.add_users(rank, date, split, users)
            self._wake()
            self._wait(lambda: state.users.ready(date, split))
            return state.users.to_weigh(rank, date, split)

    def add_weights(self, rank: int, date: str, weights: Mapping[str, float]) -> None:
        """See `RoundState.add_weights`."""
        with self._round_state() as state:
            state.add_weights(rank, date, weights)
            self._wake()

    def check_teller(self, rank: int, date: str, split: str) -> None:
        """See `RoundState.check_teller`; the day must be one of the run."""
        with self._round_state() as state:
            self._check_day(date)
            state.check_teller(rank, date, split)

    def check_weigher(self, rank: int, date: str) -> None:
        """See `RoundState.check_weigher`."""
        with self._round_state() as state:
            state.check_weigher(rank, date)

    def set_initial(self, params: Tensors, private: Sequence[str]) -> None:
        """See `GlobalModel.set_initial`."""
        with self._round_state() as state:
            if caller_rank() not in (None, self._ranks[0]):
                raise Forbidden(f"rank {caller_rank()} sets the initial parameters, which rank {self._ranks[0]} does")
            state.model.set_initial(params, private)
            if self._notifier.saves:
                state.model.make_room()
            self._tell_at_once(lambda: self._listener.on_initial(params))
            self._wake()

    def choose_exchange(self, rank: int, *, streams: bool) -> tuple[int, ...]:
        """Returns, when all simulators have told how they reach the parameters, who exchanges: `form_group`."""
        with self._turn(rank), self._round_state() as state:
            if rank in self._streams:
                raise AlreadyDone(f"rank {rank} has already told how it reaches the parameters")
            state.check_unbegun()
            self._streams[rank] = streams
            if len(self._streams) == len(self._ranks):
                self._wait(lambda: state.model.params is not None)
                self._group = state.form_group([r for r in self._ranks if self._streams[r]])
                self._wake()
            self._wait(lambda: self._group is not None)
            return self._group or ()

    def get_params(self, rank: int, step: int, *, part: bool = False) -> Tensors:
        """The shared parameters before round `step`, or a simulator's part of them, waiting until they are made."""
        with self._turn(rank), self._round_state() as state:
            self._check_near(state, step)
            self._wait(lambda: state.model.params is not None and state.step >= step)
            if state.step != step:
                raise WrongState(f"the parameters before round {step} are gone: round {state.step} is due")
            return state.part(rank) if part else state.model.need_params()

    def memory(self, rank: int) -> MemoryHandle:
        """See `GlobalModel.memory`; waits until the initial parameters are there."""
        with self._turn(rank), self._round_state() as state:
            self._wait(lambda: state.model.params is not None)
            return state.model.memory()

    def final_params(self) -> Tensors:
        """The shared parameters as they are."""
        with self._changed:
            return {} if self._state is None else self._state.model.params or {}

    def check_names(self, names: Sequence[str]) -> None:
        """Raises Forbidden if one is private."""
        with self._round_state() as state:
            state.model.check_names(names)

    def push_specs(self, rank: int, at: Round) -> dict[str, TensorSpec]:
        """See `RoundState.push_specs`."""
        with self._round_state() as state:
            return state.push_specs(rank, at)

    def param_specs(self) -> dict[str, TensorSpec] | None:
        """What the shared parameters look like; None before there are any."""
        with self._round_state() as state:
            return state.model.specs() if state.model.params is not None else None

    # -- rounds ------------------------------------------------------------------

    def share_size(self, rank: int, at: Round, phase: str) -> int:
        """See `RoundState.share_size`."""
        with self._round_state() as state:
            return state.share_size(rank, at, phase)

    def train_shares(self, rank: int, at: Round, rounds: int, kind: str | None) -> dict[int, Share]:
        """See `RoundState.train_shares`; waits until the first round is near and the day's users are weighed."""
        with self._turn(rank), self._round_state() as state:
            self._check_near(state, at.step, last=self._end.steps - 1)
            # A simulator that has pushed a round may ask for the next before all have.
            self._wait(lambda: state.step + MAX_AHEAD > at.step and state.users.weighed(at.date))
            return state.train_shares(rank, at, rounds, kind)

    def push(self, rank: int, at: Round, results: Sequence[UserResult], timings: Timings, sums: Sequence[Sums]) -> None:
        """See `RoundState.push`."""
        with self._round_state() as state:
            record = state.push(rank, at, results, timings, sums)
            if record is not None:
                self._keep(record, state)

    def end_round(self, rank: int, at: Round) -> bool:
        """Returns when a round is over: whether a checkpoint is made of the state after it."""
        with self._turn(rank), self._round_state() as state:
            self._check_near(state, at.step, last=self._end.steps - 1)
            self._wait(lambda: state.step > at.step)
            return self._notifier.checkpoint_step == at.step + 1

    def check_lanes(self, rank: int, sums: int) -> None:
        """Refuses more memories of sums than a simulator has shards."""
        if sums > self._infos[rank].shards:
            raise BadInput(f"rank {rank} names {sums} memories, it has {self._infos[rank].shards} shards")

    def replace(self, rank: int, at: Round, results: Sequence[UserResult], timings: Timings, params: Tensors) -> None:
        """See `RoundState.replace`."""
        with self._round_state() as state:
            self._keep(state.replace(rank, at, results, timings, params), state)

    def test_share(self, rank: int, at: Round) -> Share:
        """See `RoundState.test_share`; waits until the rounds before it are done."""
        with self._turn(rank), self._round_state() as state:
            self._check_near(state, at.step)
            self._wait(lambda: state.step >= at.step)
            # A test is not begun.
            self._stopping.settle()
            self._stopping.check()
            return state.test_share(rank, at)

    def report_test(self, rank: int, at: Round, results: Sequence[UserResult], timings: Timings) -> RoundRecord:
        """See `RoundState.report_test`; returns when all simulators have reported."""
        with self._turn(rank), self._round_state() as state:
            record = state.report_test(rank, at, results, timings)
            if record is not None:
                self._tests = {at: record}
                self._keep(record, None)
            self._wait(lambda: at in self._tests)
            return self._tests[at]

    # -- checkpoints -------------------------------------------------------------

    def add_segments(self, rank: int, step: int, segments: Sequence[Segment]) -> None:
        """See `Notifier.add_segments`."""
        with self._changed:
            self._check_rank(rank)
            self._notifier.add_segments(rank, step, segments)

    def offers(self, rank: int) -> Sequence[Offer]:
        """The checkpoints the run may go on from, newest first."""
        self._check_rank(rank)
        return self._listener.offers()

    def restore(self, rank: int, step: int) -> None:
        """Goes on from the checkpoint of `step` when all simulators have chosen it."""
        with self._turn(rank), self._round_state() as state:
            if rank in self._restoring:
                raise AlreadyDone(f"rank {rank} has already chosen a checkpoint")
            if step not in {offer.step for offer in self._listener.offers()}:
                raise NotFound(f"there is no checkpoint after {step} rounds")
            if any(other != step for other in self._restoring.values()):
                raise WrongState(f"rank {rank} chose the checkpoint after {step} rounds, others {self._restoring}")
            self._restoring[rank] = step
            if len(self._restoring) == len(self._ranks):
                state.restore(self._listener.on_restore(step))
                self._restored = True
            self._wake()
            self._wait(lambda: self._restored)

    # -- inside ------------------------------------------------------------------

    @contextmanager
    def _round_state(self) -> Iterator[RoundState]:
        with self._changed:
            if self._state is None:
                raise WrongState("not all simulators have joined yet")
            self._stopping.check()
            yield self._state

    @contextmanager
    def _turn(self, rank: int) -> Iterator[None]:
        """A call of a simulator that may wait, and holds a thread of the server while it does."""
        with self._changed:
            self._check_rank(rank)
            if self._waiting[rank] >= MAX_WAITING:
                raise TooLarge(f"rank {rank} has {MAX_WAITING} calls that wait; no more are allowed")
            self._waiting[rank] += 1
            try:
                yield
            finally:
                self._waiting[rank] -= 1
                if not self._waiting[rank]:
                    del self._waiting[rank]

    def _check_near(self, state: RoundState, step: int, last: int | None = None) -> None:
        """Refuses to wait for a round that is far off or never comes, which would be for ever."""
        last = self._end.steps if last is None else last
        if step > min(state.step + HORIZON, last):
            raise WrongState(f"round {step} of the run was asked for, {state.step} is due, {last} is the last")

    def _check_day(self, date: str) -> None:
        if not any(date in info.days for info in self._infos.values()):
            raise NotFound(f"date {date[:40]!r} is not a day of this run")

    def _keep(self, record: RoundRecord, state: RoundState | None) -> None:
        """Has the listener told of a round, without the simulators waiting for it to write.

        Args:
            record: of the round or evaluation.
            state: after a round, of which a checkpoint may be due.
        """
        decision = Decision() if self._decide is None else self._decide(record)
        if decision.keep:
            record = replace(record, kept={name: value.copy() for name, value in self.final_params().items()})
        self._notifier.add(record, state)
        if decision.stop is not None:
            self._stopping.finish(decision.stop)
        if state is not None:
            self._stopping.settle()
        self._wake()
        # A disk that is slower than the rounds holds them up, and memory does not grow.
        self._wait(lambda: self._notifier.has_room)

    def _tell_at_once(self, tell: Callable[[], None]) -> None:
        """Tells the listener while the caller waits; what goes wrong is the scheduler's own failure."""
        try:
            tell()
        except FLError as error:
            self.fail(str(error))
            raise RunEnded(str(error)) from error

    def _check_rank(self, rank: int) -> None:
        if rank not in self._ranks:
            raise NotFound(f"rank {rank} is not a simulator of this run ({list(self._ranks)})")

    def _layout(self) -> Layout:
        infos = tuple(self._infos[rank] for rank in self._ranks)
        return Layout(infos, tuple(sorted({day for info in infos for day in info.days})))

    def _all_left(self) -> bool:
        return len(self._left) == len(self._ranks)

    def _is_over(self) -> bool:
        """Whether all have left, the listener knows everything, and a checkpoint that was begun is there."""
        saved = self._stopping.decided is None or self._notifier.all_saved
        return self._all_left() and self._notifier.all_told and saved

    def _wake(self) -> None:
        self._changed.notify_all()

    def _wake_all(self) -> None:
        for reason in (self._changed, self._over):
            reason.notify_all()
        self._notifier.wake()

    def _wait(self, ready: Callable[[], bool], reason: threading.Condition | None = None) -> None:
        """Waits for a reason, for a change by default; a failure ends it, and a stop what waits for a change."""

        def ends() -> FLError | None:
            if self._failure is not None:
                return RunEnded(self._failure)
            return self._stopping.error if reason is None else None

        wait_in_call(reason or self._changed, ready, ends)
