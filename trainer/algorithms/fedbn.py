"""FedBN: batch norm stays with the user."""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler import Algorithm, Layers, Local, register_algorithm


@register_algorithm("fedbn")
@dataclass(frozen=True)
class FedBN(Algorithm):
    """FedAvg without the batch norm layers, which each user keeps.

    Li et al. 2021, "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", Algorithm 1: all
    layers but batch norm are averaged.  These are Paddle's own, with their running means and variances.

    A user that has never trained has the batch norm its model begins with; for a test it trains it on its examples.
    """

    def private(self, layers: Layers) -> Sequence[str]:
        """Batch norm's arrays."""
        return layers.need_norms()

    def personalise(self, local: Local) -> None:
        """New users train batch norm."""
        if not local.known:
            # Any pass moves means and variances; there may be no parameters beside them.
            local.train(correct=local.skip)
