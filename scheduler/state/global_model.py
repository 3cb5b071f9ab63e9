"""What all users share, the model and an algorithm's groups: how it begins, where it lies, how a round moves it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np

from protos.codec import Tensors, TensorSpec, specs
from protos.errors import AlreadyDone, BadInput, Forbidden, WrongState
from protos.shared_arrays import MemoryHandle, SharedArrays, unnamed_file
from scheduler.rules.algorithm import Shapes, Weight
from scheduler.rules.exact_sum import Sums, mean_factor, scale_exponent
from scheduler.rules.layers import Layers
from scheduler.rules.server_rule import MeanOfBuffers, ServerRule
from scheduler.rules.step import Step
from scheduler.state.checkpoints import Snapshot, copy_into
from scheduler.state.frozen import digest_of
from scheduler.state.rounds import Rules
from scheduler.state.server_step import Slots, filters_on_mean, move

# Between the name of a group and that of an array of it; no parameter's name has it.
OF = "/"


class GlobalModel:
    """The shared arrays, in memory that simulators of this machine can map, and the rules that move them.

    An array of a group is called "group/array", one of the model by the parameter's name alone.

    Attributes:
        params: all shared arrays; None before there are any.
        private: names of the private parameters, which never come here.
        frozen: parameters that no round changes; here for files of parameters, and for simulators that ask.

    Args:
        rules: of the run.
    """

    def __init__(self, rules: Rules) -> None:
        self.params: Tensors | None = None
        self.private: frozenset[str] = frozenset()
        self.frozen: Tensors = {}
        self._frozen_digest = ""
        self._rules = rules
        self._slots = Slots()
        # By array: what moves it, and how users count in its mean.
        self._moved_by: dict[str, tuple[ServerRule, Weight]] = {}
        self._fd: int | None = None
        self._restored: Snapshot | None = None
        # Memory for snapshots that is free: parameters and the optimizer's state.
        self._room: list[tuple[Tensors, Tensors]] = []

    def set_initial(
        self,
        params: Tensors,
        private: Iterable[str],
        layers: Layers | None = None,
        frozen: Tensors | None = None,
    ) -> None:
        """Takes the initial shared parameters, the names that are private, and the frozen parameters.

        Args:
            params: shared parameters and buffers, and an algorithm's arrays.
            private: names.
            layers: of the model; None if all that is shared has gradients.
            frozen: parameters that no round changes.

        Raises:
            AlreadyDone: they are there.
            Forbidden: a private parameter is among them.
            BadInput: none, or NaN or infinity in one.
        """
        if self.params is not None:
            raise AlreadyDone("the initial parameters are already set")
        private, frozen = frozenset(private), frozen or {}
        for name, value in [*params.items(), *frozen.items()]:
            if name in private:
                raise Forbidden(f"parameter {name!r} is private: the scheduler never takes it")
            if value.dtype.kind != "f":
                raise BadInput(f"parameter {name!r} is {value.dtype}: shared parameters are floating-point")
            if not np.isfinite(value).all():
                raise BadInput(f"initial parameter {name!r} holds NaN or infinity")
        if not params and not self._rules.algorithm.shares_nothing:
            raise BadInput("the model has no shared parameters: nothing would be learned together")
        if self._restored is not None:
            _check_model(self._restored, params, private, digest_of(frozen))
            params = self._restored.params
        self._moved_by = self._rules_of(params, layers)
        self._fd = unnamed_file("flsim-global")
        self._memory = SharedArrays(self._fd, specs(params), create=True)
        for name, value in params.items():
            # Without -0.0, which adding nothing would turn into 0.0.
            np.add(value, 0.0, out=self._memory[name])
        self.stamp(0 if self._restored is None else self._restored.step)
        self.params, self.private = self._memory.arrays, private
        self.frozen, self._frozen_digest = frozen, digest_of(frozen)
        for value in frozen.values():
            value.flags.writeable = False

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

    def copies(self) -> Tensors:
        """Copies of the shared parameters, without an algorithm's other arrays, and the frozen ones."""
        shared = {name: value.copy() for name, value in self.need_params().items() if OF not in name}
        return {**shared, **self.frozen}

    def close(self) -> None:
        """Gives the memory back as soon as nobody else has it mapped; nothing may come after this."""
        if self._fd is not None:
            os.close(self._fd)
            del self._memory
        self._fd = self.params = None

    # -- rounds --------------------------------------------------------------------

    def move(self, sums: Sequence[Sums], weights: Sequence[float], at: Step) -> None:
        """The server step.

        Args:
            sums: of what the users have sent.
            weights: of the users.
            at: the round.

        Raises:
            BadInput: a new value is not finite; the arrays are left half-way.
        """
        counted: dict[Weight, Sequence[float]] = {"user": weights, "one": (1.0,) * at.cohort}
        kinds = {weight for _, weight in self._moved_by.values()}
        factors = {kind: mean_factor(counted[kind], scale_exponent(counted[kind])) for kind in kinds}
        for name, value in self.need_params().items():
            rule, weight = self._moved_by[name]
            on_mean = () if OF in name else filters_on_mean(self._rules.filters, name, at)
            move(name, value, sums, factors[weight], rule, self._slots, at, on_mean)

    def _rules_of(self, params: Tensors, layers: Layers | None) -> dict[str, tuple[ServerRule, Weight]]:
        """What moves each array, and how users count in its mean.

        Raises:
            BadInput: an array of a group that the algorithm does not have.
        """
        algorithm = self._rules.algorithm
        model = {name: spec for name, spec in specs(params).items() if OF not in name}
        layers = layers or Layers(model, tuple(model))
        trained = {name: spec for name, spec in model.items() if name in layers.trains}
        groups = algorithm.groups(Shapes(model, trained, layers))
        rule, buffers = algorithm.server_rule(self._rules.server_rule), MeanOfBuffers()
        found: dict[str, tuple[ServerRule, Weight]] = {}
        for name in params:
            group = name.partition(OF)[0]
            if name in model:
                # Weights are 1 where users count equally.
                found[name] = rule if name in trained else buffers, "user"
            elif group in groups:
                found[name] = groups[group].rule, groups[group].weight
            else:
                raise BadInput(f"array {name!r} is of no group of {algorithm!r}, which has {sorted(groups)}")
        return found

    def replace(self, params: Tensors) -> None:
        """Takes other parameters, all of them finite."""
        for name, value in params.items():
            self.need_params()[name][...] = value

    # -- checkpoints -----------------------------------------------------------------

    def snapshot(self, step: int, date: str) -> Snapshot:
        """A copy of the state after so many rounds; `reuse` gives its memory back."""
        params, optimizer = self._room.pop() if self._room else ({}, {})
        copy_into(params, self.need_params())
        copy_into(optimizer, self._slots.state_dict())
        return Snapshot(step, date, params, optimizer, tuple(sorted(self.private)), frozen=self._frozen_digest)

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
        self._slots.load_state_dict(snapshot.optimizer)


def _check_model(restored: Snapshot, params: Tensors, private: frozenset[str], frozen: str) -> None:
    """Raises BadInput if a checkpoint is of another model."""
    for name in (*restored.params, *params):
        old, new = (str(TensorSpec.of(held[name])) if name in held else "missing" for held in (restored.params, params))
        if old != new:
            raise BadInput(f"parameter {name!r} is {new} in the model and {old} in the checkpoint")
    for name in sorted(set(private) ^ set(restored.private)):
        where = "the model" if name in private else "the checkpoint"
        raise BadInput(f"parameter {name!r} is private only in {where}")
    if restored.frozen != frozen:
        raise BadInput(
            "the frozen parameters are not those of the checkpoint: go on with the code and the packages that it began "
            "with, or start a new run with --init"
        )
