"""FedPer: users share a representation and train it together with a head of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler import Algorithm, Layers, Local, register_algorithm


@register_algorithm("fedper")
@dataclass(frozen=True)
class FedPer(Algorithm):
    """A shared representation, and a head of each user's own, which train together.

    Arivazhagan et al. 2019, "Federated Learning with Personalization Layers", Algorithms 1 and 2: the base layers are
    averaged, the personalization layers stay with the user.

    A user that has never trained has the head its model begins with; for a test it trains it on its examples.

    Args:
        head: pattern of the personalization layers' parameters, as 'out.*'; the layer of the last one if empty.
    """

    head: str = ""

    def private(self, layers: Layers) -> Sequence[str]:
        """The head."""
        return layers.head(self.head)

    def personalise(self, local: Local) -> None:
        """New users train a head."""
        if not local.known:
            local.train(only=local.own)
