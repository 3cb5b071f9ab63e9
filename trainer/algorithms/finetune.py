"""Fine-tuning: FedAvg, and each user's model goes on from the global one before it is tested."""

from dataclasses import dataclass

from scheduler import Algorithm, Local, check_number, register_algorithm


@register_algorithm("finetune")
@dataclass(frozen=True)
class FineTune(Algorithm):
    """FedAvg whose model is trained further on a user's own examples before it is tested.

    Local adaptation as in Yu et al. 2020, "Salvaging Federated Learning by Local Adaptation", section 3.1: the global
    model trains for some epochs on the user's training examples of the day.  Nothing of it is kept.

    Args:
        epochs: of that training, at least 1.
    """

    epochs: int = 1

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, least=1)

    def personalise(self, local: Local) -> None:
        """Trains on the user's examples."""
        local.train(epochs=self.epochs)
