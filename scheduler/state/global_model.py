"""The parameters that all users share: how they begin, where they lie, and how a round moves them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np

from protos.codec import Tensors, TensorSpec, specs
from protos.errors import AlreadyDone, BadInput, Forbidden, WrongState
from protos.shared_arrays import MemoryHandle, SharedArrays, unnamed_file
from scheduler.rules.exact_sum import Sums
from scheduler.rules.server_optimizers import ServerOptimizer
from scheduler.state.checkpoints import Snapshot, copy_into


class GlobalModel:
    """The shared parameters, in memory that simulators of this machine can map, and the server optimizer.

    Attributes:
        params: the shared parameters; None before there are any.
        private: names of the private ones, which never come here.

    Args:
        optimizer: makes the server step.
    """

    def __init__(self, optimizer: ServerOptimizer) -> None:
        self.params: Tensors | None = None
        self.private: frozenset[str] = frozenset()
        self._optimizer = optimizer
        self._fd: int | None = None
        self._restored: Snapshot | None = None
        # Memory for snapshots that is free: parameters and the optimizer's state.
        self._room: list[tuple[Tensors, Tensors]] = []

    def set_initial(self, params: Tensors, private: Iterable[str]) -> None:
        """Takes the initial shared parameters and the names that are private.

        Raises:
            AlreadyDone: they are there.
            Forbidden: a private parameter is among them.
            BadInput: none, or NaN or infinity in one.
        """
        if self.params is not None:
            raise AlreadyDone("the initial parameters are already set")
        private = frozenset(private)
        for name, value in params.items():
            if name in private:
                raise Forbidden(f"parameter {name!r} is private: the scheduler never takes it")
            if value.dtype.kind != "f":
                raise BadInput(f"parameter {name!r} is {value.dtype}: shared parameters are floating-point")
            if not np.isfinite(value).all():
                raise BadInput(f"initial parameter {name!r} holds NaN or infinity")
        if not params:
            raise BadInput("the model has no shared parameters: nothing would be learned together")
        if self._restored is not None:
            _check_model(self._restored, params, private)
            params = self._restored.params
        self._fd = unnamed_file("flsim-global")
        self._memory = SharedArrays(self._fd, specs(params), create=True)
        for name, value in params.items():
            # Without -0.0, which adding nothing would turn into 0.0.
            np.add(value, 0.0, out=self._memory[name])
        self.stamp(0 if self._restored is None else self._restored.step)
        self.params, self.private = self._memory.arrays, private

    def need_params(self) -> Tensors:
        """The shared parameters; raises WrongState before there are any."""
        if self.params is None:
            raise WrongState("the initial parameters are not set yet")
        return self.params

    def specs(self) -> dict[str, TensorSpec]:
        """What the shared parameters look like; raises WrongState before there are any."""
        return specs(self.need_params())

    def check_names(self, names: Iterable[str]) -> None:
        """Raises Forbidden if a name is private."""
        for name in names:
            if name in self.private:
                raise Forbidden(f"parameter {name!r} is private: the scheduler never takes it")

    def memory(self) -> MemoryHandle:
        """Where simulators of this machine find the shared parameters; raises WrongState before there are any."""
        self.need_params()
        return self._memory.handle()

    def stamp(self, step: int) -> None:
        """Tells shards of this machine that the parameters are those before round `step`: they begin with it."""
        self._memory.stamp(step)

    def close(self) -> None:
        """Gives the memory back as soon as nobody else has it mapped; nothing may come after this."""
        if self._fd is not None:
            os.close(self._fd)
            del self._memory
        self._fd = self.params = None

    # -- rounds --------------------------------------------------------------------

    def move(self, sums: Sequence[Sums], factor: float, cohort_size: int) -> None:
        """The server step; see `ServerOptimizer.apply`.

        Raises:
            BadInput: a new value is not finite; the parameters are left half-way.
        """
        for name, value in self.need_params().items():
            self._optimizer.apply(name, value, sums, factor, cohort_size)

    def replace(self, params: Tensors) -> None:
        """Takes other parameters, all of them finite."""
        for name, value in params.items():
            self.need_params()[name][...] = value

    # -- checkpoints -----------------------------------------------------------------

    def snapshot(self, step: int, date: str) -> Snapshot:
        """A copy of the state after so many rounds; `reuse` gives its memory back."""
        params, optimizer = self._room.pop() if self._room else ({}, {})
        copy_into(params, self.need_params())
        copy_into(optimizer, self._optimizer.state_dict())
        return Snapshot(step, date, params, optimizer, tuple(sorted(self.private)))

    def make_room(self) -> None:
        """Takes the memory of a snapshot now: what a run needs shows at its start, and does not grow later."""
        params: Tensors = {}
        copy_into(params, self.need_params())
        self._room.append((params, {}))

    def reuse(self, snapshot: Snapshot) -> None:
        """Nobody needs a snapshot any more: the next one takes its memory."""
        self._room.append((snapshot.params, snapshot.optimizer))

    def restore(self, snapshot: Snapshot) -> None:
        """Goes on from a snapshot; its parameters are taken when those of the model come, which they must match."""
        self._restored = snapshot
        self._optimizer.load_state_dict(snapshot.optimizer)


def _check_model(restored: Snapshot, params: Tensors, private: frozenset[str]) -> None:
    """Raises BadInput if a checkpoint is of another model."""
    for name in (*restored.params, *params):
        old, new = (str(TensorSpec.of(held[name])) if name in held else "missing" for held in (restored.params, params))
        if old != new:
            raise BadInput(f"parameter {name!r} is {new} in the model and {old} in the checkpoint")
    for name in sorted(set(private) ^ set(restored.private)):
        where = "the model" if name in private else "the checkpoint"
        raise BadInput(f"parameter {name!r} is private only in {where}")
