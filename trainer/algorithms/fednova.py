"""FedNova: users that make more local steps do not pull the model their way."""

from dataclasses import dataclass

from scheduler import Algorithm, Float64, Local, Metrics, ServerRule, Step, register_algorithm


class TimesTau(ServerRule):
    """Another rule, with the mean times tau_eff."""

    def __init__(self, rule: ServerRule) -> None:
        self.rule = rule
        self.slots, self.keeps_untouched = rule.slots, rule.keeps_untouched  # type: ignore[misc]

    def initial_slot(self, slot: str) -> float:  # noqa: D102
        return self.rule.initial_slot(slot)

    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:  # noqa: D102
        return self.rule.step(x, mean * at.mean("tau"), slots, at)


@register_algorithm("fednova")
@dataclass(frozen=True)
class FedNova(Algorithm):
    """Normalises each update by its local steps.

    Wang et al. 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
    equations (5) and (6) for plain local SGD, where |a_i| = tau_i, the local steps of user i, and p_i its weight:

        x <- x + tau_eff sum_i p_i (y_i - x) / tau_i,   tau_eff = sum_i p_i tau_i

    Beyond FedAvg a user sends one number.
    """

    def train(self, local: Local) -> Metrics:
        """Local training; what is sent is divided by its steps."""
        metrics = local.train()
        local.update.scale(1 / max(1, local.steps))
        local.scalar("tau", local.weight * local.steps, local.weight)
        return metrics

    def server_rule(self, rule: ServerRule) -> ServerRule:
        """The run's own, with tau_eff."""
        return TimesTau(rule)
