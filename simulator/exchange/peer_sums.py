"""Where simulators of a group meet: the sums that come from the others, the parameters they wait for.

Thread-safe: the simulator's main thread opens rounds and takes their sums, threads of
the server bring what the other simulators send.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from protos.answers import wait_in_call
from protos.codec import Tensors, TensorSpec
from protos.errors import AlreadyDone, FLError, NotFound, WrongState
from scheduler.rules.exact_sum import Sums, share_bound
from scheduler.rules.samplers import Round
from scheduler.state.partition import Partition
from scheduler.state.rounds import Share


class PeerSums:
    """One simulator's part of the sums and of the parameters, as the others see it.

    Args:
        rank: of this simulator.
        parts: of the group.
        params: this simulator's copy of the shared parameters, in their own shapes.
        step: the first round of the run that will be pulled.
    """

    def __init__(self, rank: int, parts: Partition, params: Tensors, step: int) -> None:
        self._rank, self._parts = rank, parts
        self._params = parts.views(params, rank)
        self._changed = threading.Condition()
        self._error: FLError | None = None
        # The round whose parameters are here.
        self._has = step - 1
        self._next = step
        self._open: Round | None = None
        self._cohort_size = 0
        self._sizes: dict[int, int] = {}
        self._total: Tensors = {}
        self._added: set[int] = set()
        self._calls: set[tuple[str, int]] = set()

    @property
    def sum_specs(self) -> dict[str, TensorSpec]:
        """What the sums of this part look like."""
        return self._parts.specs(self._rank, "int64")

    # -- this simulator ----------------------------------------------------------

    def open(self, at: Round, share: Share) -> None:
        """Begins a round: the others may bring their sums from now on."""
        with self._changed:
            self._open, self._cohort_size = at, share.cohort_size
            # With more simulators than numbers some have no part, and nobody brings them anything.
            sizes = share.sizes if self.sum_specs else (0,) * len(share.sizes)
            self._sizes = {rank: size for rank, size in zip(self._parts.group, sizes, strict=True) if size}
            self._added = set()
            self._changed.notify_all()

    def take(self, own: Tensors | None) -> Tensors:
        """The sums of the whole group in this part, when all are in; ends the round.

        Args:
            own: this simulator's, int64; None if it has no users.

        Raises:
            FLError: what `fail` was told.
        """
        with self._changed:
            if own is not None and self._rank in self._sizes:
                self._add(self._rank, own)
            self._wait(lambda: self._added >= set(self._sizes))
            assert self._open is not None, "open comes first"
            self._next, self._open = self._open.step + 1, None
            total, self._total = self._total, {}
            return total

    def show_params(self, step: int) -> None:
        """Tells that this part of the parameters before round `step` is here."""
        with self._changed:
            self._has = step
            self._changed.notify_all()

    def fail(self, error: FLError) -> None:
        """Ends all waiting, now and later."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    # -- the others --------------------------------------------------------------

    @contextmanager
    def contributing(self, rank: int, at: Round) -> Iterator[Callable[[Tensors], None]]:
        """A call that brings another simulator's sums; waits until the round is open here.

        Returns:
            What takes the sums, whole.

        Raises:
            NotFound: not of the group.
            WrongState: another round, or it has no users in this one.
            AlreadyDone: its sums are here or on their way.
        """
        with self._calling("sums", rank):
            with self._changed:
                if at.step != self._next:
                    raise WrongState(f"rank {rank} brings sums of round {at.step}; {self._next} is due")
                self._wait(lambda: self._open is not None)
                if at != self._open:
                    raise WrongState(f"rank {rank} brings sums of {at}; {self._open} is due")
                if rank not in self._sizes:
                    raise WrongState(f"rank {rank} brings sums of round {at.step}, in which it has no users")
                if rank in self._added:
                    raise AlreadyDone(f"rank {rank} has already brought its sums of round {at.step}")
                bound = share_bound(self._sizes[rank], self._cohort_size)

            def take(sums: Tensors) -> None:
                Sums.whole(sums).check(bound)
                with self._changed:
                    if at != self._open:
                        raise WrongState(f"rank {rank} brings sums of round {at.step}, which is over")
                    self._add(rank, sums)

            yield take

    def params(self, rank: int, step: int) -> Tensors:
        """This part of the parameters before round `step`, flat, when it is here.

        Raises:
            NotFound: the caller is not of the group.
            WrongState: another round is due.
        """
        with self._calling("params", rank), self._changed:
            if step not in (self._has, self._has + 1):
                raise WrongState(f"rank {rank} asks for the parameters before round {step}; {self._has + 1} is due")
            self._wait(lambda: self._has >= step)
            return self._params

    # -- inside ------------------------------------------------------------------

    @contextmanager
    def _calling(self, what: str, rank: int) -> Iterator[None]:
        """One call of a kind for each simulator, so that none holds more threads."""
        if rank not in self._parts.group or rank == self._rank:
            raise NotFound(f"rank {rank} is no other simulator of this group ({list(self._parts.group)})")
        with self._changed:
            if (what, rank) in self._calls:
                raise AlreadyDone(f"rank {rank} has another call for {what} under way")
            self._calls.add((what, rank))
        try:
            yield
        finally:
            with self._changed:
                self._calls.discard((what, rank))

    def _add(self, rank: int, sums: Tensors) -> None:
        if self._total:
            for name, total in self._total.items():
                np.add(total, sums[name], out=total)
        else:
            # A copy: this simulator's own are in the memory of its shards.
            self._total = {name: value.copy() if rank == self._rank else value for name, value in sums.items()}
        self._added.add(rank)
        self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        wait_in_call(self._changed, ready, lambda: self._error)
