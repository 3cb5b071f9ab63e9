"""What a user keeps for itself, as its data server has it: private parameters, arrays of algorithm and filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.codec import Tensors, TensorSpec
from protos.errors import BadInput
from scheduler.rules.algorithm import Algorithm, Shapes
from scheduler.rules.filters import Filter
from scheduler.rules.layers import Specs
from scheduler.rules.local_optimizers import LocalRule, kept_specs
from scheduler.rules.samplers import Round
from simulator.contracts import Examples


@dataclass(frozen=True)
class Loaded:
    """A user whose own parameters are in the model.

    Attributes:
        uid: of the user.
        at: the round.
        examples: of the round, or of the test.
        known: whether it has trained before.
        states: its own arrays, of the algorithm and of each filter.
    """

    uid: str
    at: Round
    examples: Examples
    known: bool
    states: Sequence[Tensors]


class UserState:
    """The arrays that an algorithm and filters keep of each user.

    Args:
        algorithm: declares its own.
        filters: each declares its own.
        shapes: of the model.
        rule: the local optimizer; None for plain SGD.
    """

    def __init__(
        self, algorithm: Algorithm, filters: Sequence[Filter], shapes: Shapes, rule: LocalRule | None = None
    ) -> None:
        self._pieces: list[Specs] = [algorithm.user_state(shapes), *(each.user_state(shapes) for each in filters)]
        self._prefixes = ["state/", *(f"state/filter {number}/" for number in range(1, len(self._pieces)))]
        specs = shapes.layers.specs
        self._pieces.append(kept_specs(rule, {name: specs[name] for name in shapes.layers.trains}))
        self._prefixes.append("state/optimizer/")

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """By the names under which they are kept."""
        return {
            f"{prefix}{name}": spec
            for prefix, specs in zip(self._prefixes, self._pieces, strict=True)
            for name, spec in specs.items()
        }

    def split(self, kept: Tensors | None) -> tuple[Tensors | None, list[Tensors]]:
        """Private parameters (None if the user has not trained yet), and the arrays of each piece, zeros if so.

        Pieces are the algorithm, each filter and the local optimizer.

        Args:
            kept: what the data server has of the user.
        """
        if kept is None:
            return None, [{n: np.zeros(s.shape, s.dtype) for n, s in specs.items()} for specs in self._pieces]
        states = [
            {name: np.array(kept[f"{prefix}{name}"]) for name in specs}
            for prefix, specs in zip(self._prefixes, self._pieces, strict=True)
        ]
        mine = self.specs
        return {name: value for name, value in kept.items() if name not in mine}, states

    def join(self, uid: str, private: Tensors, states: Sequence[Tensors]) -> Tensors:
        """What is kept after training.

        Raises:
            BadInput: NaN or infinity, an array that was not declared, or of another shape or dtype.
        """
        _check_finite(uid, "its private parameter", private)
        kept = dict(private)
        for prefix, specs, state in zip(self._prefixes, self._pieces, states, strict=True):
            for name in (*specs, *state):
                told = str(TensorSpec.of(np.asarray(state[name]))) if name in state else "missing"
                declared = str(specs[name]) if name in specs else "nothing of that name"
                if told != declared:
                    raise BadInput(
                        f"uid {uid!r}: array {name!r} of its state is {told}, `user_state` declares {declared}"
                    )
            _check_finite(uid, "its state", state)
            kept |= {f"{prefix}{name}": np.asarray(state[name]) for name in specs}
        return kept


def _check_finite(uid: str, what: str, arrays: Tensors) -> None:
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise BadInput(
                f"uid {uid!r}: NaN or infinity in {what} {name!r}: its local training diverged; "
                "lower the local learning rate or --max-grad-norm"
            )
