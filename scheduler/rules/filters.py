"""What a user's update goes through before it is summed, and their mean before the server's step."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from scheduler.rules.algorithm import Shapes, refuse_misspelt
from scheduler.rules.layers import Specs
from scheduler.rules.local import Local
from scheduler.rules.server_rule import Float64
from scheduler.rules.step import Step


class Filter:
    """One of a chain: in order on each user's update, in the shard; in reverse on the mean, in the scheduler.

    It acts on the model's update, after the algorithm's `train`.  A filter is a frozen dataclass,
    and keeps nothing but a user's state.
    """

    # Whether it needs users to count as one each, whatever they weigh.
    counts_equally: ClassVar[bool] = False
    # Whether it promises something of all that a user sends: then nothing may be sent that does not pass it.
    guards: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Names what is nearly an attribute of the base class: it would do nothing."""
        refuse_misspelt(cls, Filter)

    def check(self, shapes: Shapes) -> None:
        """Raises BadInput if it cannot work with this model."""

    def user_state(self, shapes: Shapes) -> Specs:
        """Arrays that each user keeps for this filter, by name; they are in `local.state`."""
        return {}

    def on_user(self, local: Local) -> None:
        """Changes `local.update`."""

    def on_mean(self, name: str, mean: Float64, at: Step, rng: np.random.Generator) -> None:
        """Changes a block of the mean in place.

        Args:
            name: of the parameter.
            mean: float64 (n,); blocks of a parameter come in order, each once.
            at: the round.
            rng: of (round, this filter, parameter); it goes on from block to block.
        """


def changes_mean(filter_: Filter) -> bool:
    """Whether a filter does anything to the mean."""
    return type(filter_).on_mean is not Filter.on_mean
