"""FedBABU: the head never trains but at the user, for its own model."""

from dataclasses import dataclass

from scheduler import Algorithm, Local, Metrics, Shapes, check_number, register_algorithm


@register_algorithm("fedbabu")
@dataclass(frozen=True)
class FedBABU(Algorithm):
    """Trains the body under a head that stays as it began; users fine-tune it for their tests.

    Oh et al. 2022, "FedBABU: Toward Enhanced Representation for Federated Image Classification", Algorithm 1: users
    train all but the head, which is the same for all and never changes.  A user's own model is the global one, trained
    further on its examples with the head (section 5).  Nothing of it is kept.

    Args:
        epochs: of that training, at least 1.
        head: pattern of the head's parameters, as 'out.*'; the layer of the last parameter if empty.
    """

    epochs: int = 1
    head: str = ""

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, least=1)

    def check(self, shapes: Shapes) -> None:
        """Refuses a model without a head."""
        shapes.layers.head(self.head)

    def train(self, local: Local) -> Metrics:
        """The body alone."""
        return local.train(only=local.layers.base(self.head))

    def personalise(self, local: Local) -> None:
        """All of it."""
        local.train(epochs=self.epochs)
