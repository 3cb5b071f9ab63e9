"""FedSGD: one step on all examples of each user."""

from dataclasses import dataclass

from scheduler import Algorithm, Local, Metrics, register_algorithm


@register_algorithm("fedsgd")
@dataclass(frozen=True)
class FedSGD(Algorithm):
    """One step a round, on all examples of each user at once.

    McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", section 2:
    FedAvg with E = 1 and B = infinity, so that x <- x - lr sum_k n_k/n g_k, with g_k the gradient over all examples
    of user k.  With clipping (`--max-grad-norm`) it is that of the clipped gradients.
    """

    def train(self, local: Local) -> Metrics:
        """One step."""
        return local.train(epochs=1, batch_size=max(1, len(next(iter(local.examples.values())))))
