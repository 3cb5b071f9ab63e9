"""What the run's listener is still to be told of, and the checkpoints that are on their way."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from protos.codec import Tensors
from protos.errors import AlreadyDone, FLError, TooLarge, WrongState
from scheduler.service.messages import Layout
from scheduler.state.checkpoints import Marks, Offer, Schedule, Segment, Snapshot
from scheduler.state.global_model import GlobalModel
from scheduler.state.round_state import RoundState
from scheduler.state.rounds import TRAIN, RoundRecord

# Finished rounds that may wait for the listener; a disk that is slower than the rounds holds them up.
MAX_UNTOLD = 64
# How long a finished round may wait for others, so that the listener is told of short ones together.
GATHER_SECONDS = 0.1
# Files that one simulator's part of a checkpoint may be spread over.
MAX_SEGMENTS = 1000


class Listener(Protocol):
    """Told what happens in the run, in order and one call at a time."""

    def on_layout(self, layout: Layout) -> None:
        """All simulators have joined."""

    def on_initial(self, params: Tensors, frozen: Tensors) -> None:
        """The initial shared parameters are set."""

    def on_record(self, record: RoundRecord) -> None:
        """A round or an evaluation has finished."""

    def mark(self) -> Marks:
        """How far the record goes."""

    def sync(self) -> None:
        """Returns when all of the record is on the disk itself."""

    def on_checkpoint(self, snapshot: Snapshot, marks: Marks, segments: Sequence[Segment]) -> None:
        """All parts of a checkpoint are there."""

    def offers(self) -> Sequence[Offer]:
        """The checkpoints the run may go on from, newest first; empty for a new run."""

    def on_restore(self, step: int) -> Snapshot:
        """The run goes on from a checkpoint."""


@dataclass
class _Parts:
    """A checkpoint on its way: the scheduler's part, and each simulator's files of private parameters."""

    snapshot: Snapshot
    model: GlobalModel
    segments: dict[int, tuple[Segment, ...]] = field(default_factory=dict)


class Notifier:
    """Tells the listener of rounds and checkpoints in a thread of its own, so that no simulator waits for a disk.

    Not thread-safe but for that thread: callers hold the lock.

    Args:
        listener: who is told.
        schedule: when checkpoints are made.
        simulators: how many have a part in each checkpoint.
        lock: of the run's state.
        ended: whether the run is over or has failed; asked with the lock held.
        told: called with the lock held when something has been told.
        room: called with the lock held when there is room again for more.
        fail: called without it when the listener has failed.
    """

    def __init__(
        self, listener: Listener, schedule: Schedule, simulators: int, *, lock: threading.RLock,
        ended: Callable[[], bool], told: Callable[[], None], room: Callable[[], None], fail: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._listener, self._schedule, self._simulators = listener, schedule, simulators
        self._ended, self._on_told, self._on_room, self._fail = ended, told, room, fail
        self._more = threading.Condition(lock)
        self._thread = threading.Thread(target=self._tell, name="records", daemon=True)
        self._untold: deque[RoundRecord | Snapshot | _Parts] = deque()
        self._telling = False
        # The checkpoints that are being made, and how far the record goes for each, by step.
        self._parts: dict[int, _Parts] = {}
        self._marks: dict[int, Marks] = {}
        # Of the last round: its day, and how far the record went when the round was in it.
        self._date: str | None = None
        self._last_mark: Marks = {}
        # The round whose state the last checkpoint is of.
        self.checkpoint_step = -1

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def join(self) -> None:
        """Returns when the thread has ended, which it does soon after the run."""
        self._thread.join()

    @property
    def saves(self) -> bool:
        """Whether checkpoints are made."""
        return self._schedule.every != 0

    @property
    def all_told(self) -> bool:
        """Whether the listener knows everything."""
        return not self._untold and not self._telling

    @property
    def all_saved(self) -> bool:
        """Whether no checkpoint is on its way."""
        return not self._parts

    @property
    def has_room(self) -> bool:
        """Whether the listener keeps up: the next round need not wait for it."""
        return len(self._untold) < MAX_UNTOLD and len(self._parts) <= 1

    def add(self, record: RoundRecord, state: RoundState | None) -> None:
        """Has the listener told of a round or an evaluation.

        Args:
            record: of it.
            state: after a round, of which a checkpoint may be due.
        """
        self._untold.append(record)
        # By time, never two at once; by rounds, whenever one is due.
        if state is not None:
            self._date = record.at.date
            if (not self._parts or self._schedule.every) and self._schedule.due(state.step):
                self._begin_checkpoint(state)
            elif state.step == state.plan.steps:
                # A run that has ended may be gone on with, with more rounds.
                self.save_now(state)
        if len(self._untold) == 1 or self._is_urgent():
            self._more.notify()

    def save_now(self, state: RoundState) -> bool:
        """Has a checkpoint made of the state after the last round, unless there is one.

        Returns:
            Whether one of it is on its way.
        """
        if self._date is None or not self.saves:
            return False
        if self.checkpoint_step != state.step:
            self._begin_checkpoint(state)
        return state.step in self._parts

    def note_test(self, step: int) -> None:
        """A test after so many rounds was asked for: a checkpoint of then that is not written yet holds it."""
        if (parts := self._parts.get(step)) is not None:
            parts.snapshot = replace(parts.snapshot, tests=True)

    def lacks(self, rank: int, step: int) -> bool:
        """Whether a checkpoint waits for a simulator's part of it."""
        parts = self._parts.get(step)
        return parts is not None and bool(parts.snapshot.private) and rank not in parts.segments

    def add_segments(self, rank: int, step: int, segments: Sequence[Segment]) -> None:
        """Takes a simulator's part of the checkpoint that is being made.

        Raises:
            TooLarge: too many files.
            WrongState: none is being made of that step.
            AlreadyDone: its part is there.
        """
        if len(segments) > MAX_SEGMENTS:
            raise TooLarge(f"rank {rank} names {len(segments)} files; at most {MAX_SEGMENTS} are allowed")
        parts = self._parts.get(step)
        if parts is None:
            raise WrongState(f"no checkpoint is being made of the state after {step} rounds")
        if rank in parts.segments:
            raise AlreadyDone(f"rank {rank} has already reported its private parameters after {step} rounds")
        parts.segments[rank] = tuple(segments)
        self._finish_checkpoint(step)

    def wake(self) -> None:
        """The run is over or has failed."""
        self._more.notify_all()

    # -- inside ------------------------------------------------------------------

    def _begin_checkpoint(self, state: RoundState) -> None:
        assert self._date is not None, "a round comes first"
        self.checkpoint_step = state.step
        tests = state.step in state.plan.asked
        snapshot = replace(state.model.snapshot(state.step, self._date), tests=tests)
        self._parts[state.step] = _Parts(snapshot, state.model)
        self._untold.append(snapshot)
        self._more.notify()
        self._finish_checkpoint(state.step)

    def _finish_checkpoint(self, step: int) -> None:
        """Has the checkpoint written once all its parts are there."""
        parts = self._parts[step]
        if not parts.snapshot.private or len(parts.segments) == self._simulators:
            self._untold.append(parts)
            self._more.notify()

    def _tell(self) -> None:
        """Until the run is over."""
        while True:
            with self._more:
                self._telling = False
                self._on_told()
                self._more.wait_for(lambda: bool(self._untold) or self._ended())
                if not self._untold:
                    return
                # Rounds of milliseconds are told together: not at the moment in which shards wait for the next.
                self._more.wait_for(self._is_urgent, GATHER_SECONDS)
                several, full = list(self._untold), not self.has_room
                self._untold.clear()
                self._telling = True
                if full:
                    self._on_room()
            try:
                for news in several:
                    self._tell_one(news)
            except FLError as error:
                self._fail(str(error))
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the run must end with it
                self._fail("the scheduler (rank 0) failed:\n" + "".join(traceback.format_exception(error)).rstrip())
                return

    def _is_urgent(self) -> bool:
        """Whether what waits for the listener is not just a few rounds."""
        several = len(self._untold) >= MAX_UNTOLD // 2
        return self._ended() or several or not isinstance(self._untold[-1], RoundRecord)

    def _tell_one(self, news: RoundRecord | Snapshot | _Parts) -> None:
        if isinstance(news, RoundRecord):
            self._listener.on_record(news)
            if news.phase == TRAIN and self.saves:
                # Without the tests after the round, which a resumed run does again.
                self._last_mark = self._listener.mark()
        elif isinstance(news, Snapshot):
            self._marks[news.step] = self._last_mark
            self._listener.sync()
        else:
            segments = [segment for rank in sorted(news.segments) for segment in news.segments[rank]]
            step = news.snapshot.step
            self._listener.on_checkpoint(news.snapshot, self._marks.pop(step), segments)
            with self._more:
                self._schedule.finished()
                del self._parts[step]
                news.model.reuse(news.snapshot)
                self._on_room()
