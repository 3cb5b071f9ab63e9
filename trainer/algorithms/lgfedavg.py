"""LG-FedAvg: each user has a representation of its own, and all share the head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from scheduler import Algorithm, Layers, Local, register_algorithm


@register_algorithm("lgfedavg")
@dataclass(frozen=True)
class LGFedAvg(Algorithm):
    """A shared head on a representation of each user's own.

    Liang et al. 2020, "Think Locally, Act Globally: Federated Learning with Local and Global Representations",
    Algorithm 1: local and global model train together, the global one is averaged.  Less is sent than in FedAvg.

    All begin with the same representation, as a head for all needs; a user that has never trained has it, and for a
    test trains it on its examples.

    Args:
        head: pattern of the parameters that are shared, as 'out.*'; the layer of the last one if empty.
    """

    head: str = ""

    starts_alike: ClassVar[bool] = True

    def private(self, layers: Layers) -> Sequence[str]:
        """All below the head, running means and variances too."""
        return layers.below(self.head)

    def personalise(self, local: Local) -> None:
        """New users train a representation."""
        if not local.known:
            local.train(only=local.own)
