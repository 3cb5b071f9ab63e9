"""FedProx: local training is held near the global model."""

from collections.abc import Callable
from dataclasses import dataclass

from scheduler import Algorithm, Local, Metrics, check_number, register_algorithm


@register_algorithm("fedprox")
@dataclass(frozen=True)
class FedProx(Algorithm):
    """Adds a proximal term to each user's loss.

    Li et al. 2020, "Federated Optimization in Heterogeneous Networks", Algorithm 2 and equation (2): user k
    minimises F_k(w) + mu/2 |w - w_t|^2, whose gradient is that of F_k plus mu (w - w_t).

    Args:
        mu: weight of the term, 0 or more; 0 is FedAvg.
    """

    mu: float = 0.01

    def __post_init__(self) -> None:
        check_number("mu", self.mu, least=0.0)

    def train(self, local: Local) -> Metrics:
        """Local training with the term."""
        return local.train(correct=self.term(local))

    def term(self, local: Local) -> Callable[[], None]:
        """What adds the term's gradient, before each step."""

        def correct() -> None:
            now = local.params
            for name, gradient in local.gradients().items():
                gradient += self.mu * (now[name] - local.shared[name])

        return correct
