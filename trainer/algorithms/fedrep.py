"""FedRep: users share a representation, and each has a head of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler import Algorithm, Layers, Local, Metrics, check_number, register_algorithm


@register_algorithm("fedrep")
@dataclass(frozen=True)
class FedRep(Algorithm):
    """A shared representation, and a head of each user's own, which trains first.

    Collins et al. 2021, "Exploiting Shared Representations for Personalized Federated Learning", Algorithm 1: user i
    makes steps on its head h_i with the representation phi fixed, then on phi with h_i fixed; phi is averaged.

    A user that has never trained has the head its model begins with; for a test it trains it on its examples.

    Args:
        head: pattern of the head's parameters, as 'out.*'; the layer of the last parameter if empty.
        head_epochs: epochs on the head, at least 1.
    """

    head: str = ""
    head_epochs: int = 1

    def __post_init__(self) -> None:
        check_number("head_epochs", self.head_epochs, least=1)

    def private(self, layers: Layers) -> Sequence[str]:
        """The head."""
        return layers.head(self.head)

    def train(self, local: Local) -> Metrics:
        """Head, then representation."""
        local.train(epochs=self.head_epochs, only=local.own)
        return local.train(only=local.trained)

    def personalise(self, local: Local) -> None:
        """New users train a head."""
        if not local.known:
            local.train(epochs=self.head_epochs, only=local.own)
