"""q-FedAvg: users whose loss is high count for more."""

from dataclasses import dataclass
from typing import ClassVar

from scheduler import (
    Algorithm,
    AroundRule,
    BadInput,
    Float64,
    Local,
    Metrics,
    ServerRule,
    Step,
    check_number,
    register_algorithm,
)
from trainer.algorithms.mean_loss import mean_loss

# Added to a loss, so that a power of it below 0 is finite.
TINY = 1e-10


class OverH(AroundRule):
    """Another rule, with the mean over that of h."""

    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:  # noqa: D102
        return self.rule.step(x, mean / at.mean("h"), slots, at)


@register_algorithm("qfedavg")
@dataclass(frozen=True)
class QFedAvg(Algorithm):
    """Weighs updates by a power of each user's loss, for accuracies that are more alike.

    Li et al. 2020, "Fair Resource Allocation in Federated Learning", Algorithm 2.  With F_k the loss of the global
    model x on the examples of user k, y_k its model and L = 1 / lr:

        D_k = L (x - y_k),   h_k = q F_k^(q-1) |D_k|^2 + L F_k^q,   x <- x - sum_k F_k^q D_k / sum_k h_k

    Both are sent over L here, which cancels.  Users count equally; q = 0 is FedAvg with equal weights.  Beyond FedAvg
    a user sends one number, and tests the global model on its training examples.

    Args:
        q: how much more, 0 or more.
    """

    q: float = 1.0

    weight: ClassVar = "one"
    local_optimizers: ClassVar = "plain"

    def __post_init__(self) -> None:
        check_number("q", self.q, least=0.0)

    def server_rule(self, rule: ServerRule) -> ServerRule:
        """The run's own, with the mean over h."""
        return OverH(rule)

    def train(self, local: Local) -> Metrics:
        """Local training, scaled by the loss before it."""
        loss = mean_loss(local, local.evaluate()) + TINY
        metrics = local.train()
        square = (local.update.norm() / local.lr) ** 2
        try:
            power = loss**self.q
            h = local.lr * (self.q * loss ** (self.q - 1) * square + power / local.lr)
        except OverflowError:
            raise BadInput(f"uid {local.uid!r}: its loss, {loss:g}, to the power of {self.q:g} is too large") from None
        local.scalar("h", h)
        local.update.scale(power)
        return metrics
