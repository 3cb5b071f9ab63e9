"""FedNova: users that make more local steps do not pull the model their way."""

from dataclasses import dataclass
from typing import ClassVar

from scheduler import Algorithm, AroundRule, Float64, Local, Metrics, ServerRule, Step, register_algorithm


class TimesTau(AroundRule):
    """Another rule, with the mean times tau_eff."""

    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:  # noqa: D102
        return self.rule.step(x, mean * at.mean("tau"), slots, at)


@register_algorithm("fednova")
@dataclass(frozen=True)
class FedNova(Algorithm):
    """Normalises each update by its local steps.

    Wang et al. 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
    equations (5) and (6), with p_i the weight of user i and |a_i| the L1 norm of the weights that its local optimizer
    gives to its gradients (`Local.reach`):

        x <- x + tau_eff sum_i p_i (y_i - x) / |a_i|,   tau_eff = sum_i p_i |a_i|

    For plain SGD |a_i| = tau_i, its local steps; with momentum mu it is (tau_i - mu (1 - mu^tau_i) / (1 - mu)) /
    (1 - mu).  Weight decay is a term of the loss.  Beyond FedAvg a user sends one number.
    """

    local_optimizers: ClassVar = "sums"

    def train(self, local: Local) -> Metrics:
        """Local training; what is sent is divided by how far its steps go."""
        metrics = local.train()
        reach = local.reach
        local.update.scale(1 / (reach or 1))
        local.scalar("tau", local.weight * reach, local.weight)
        return metrics

    def server_rule(self, rule: ServerRule) -> ServerRule:
        """The run's own, with tau_eff."""
        return TimesTau(rule)
