"""FedDyn: each user's loss is bent so that the minima of all agree."""

from dataclasses import dataclass
from typing import ClassVar

from scheduler import (
    Algorithm,
    AroundRule,
    Float64,
    Local,
    Metrics,
    ServerRule,
    Shapes,
    Specs,
    Step,
    check_number,
    register_algorithm,
)


class LessH(AroundRule):
    """h <- h - alpha |P|/m mean; then another rule, with the mean less h / alpha."""

    def __init__(self, rule: ServerRule, alpha: float) -> None:
        super().__init__(rule)
        self.alpha = alpha
        # h moves elements whose mean is 0.
        self.slots, self.keeps_untouched = (*rule.slots, "h"), False  # type: ignore[misc]

    def initial_slot(self, slot: str) -> float:  # noqa: D102
        return 0.0 if slot == "h" else super().initial_slot(slot)

    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:  # noqa: D102
        h = slots["h"]
        h -= self.alpha * at.cohort / at.population * mean
        return self.rule.step(x, mean - h / self.alpha, slots, at)


@register_algorithm("feddyn")
@dataclass(frozen=True)
class FedDyn(Algorithm):
    """Adds to each user's loss a linear and a quadratic term that change with the rounds.

    Acar et al. 2021, "Federated Learning Based on Dynamic Regularization", Algorithm 1.  With x the global model, P
    the cohort, m all users of the day and g_k the linear term of user k, zero at first, it minimises (1)

        F_k(y) - <g_k, y> + alpha/2 |y - x|^2,    then  g_k <- g_k - alpha (y_k - x)

    and the server, with h zero at first,

        h <- h - alpha/m sum_{k in P} (y_k - x),   x <- mean of y_k - h / alpha

    Users count equally, as in the paper.  A user keeps g_k, as large as the model; no more is sent than in FedAvg.

    Args:
        alpha: weight of the terms, above 0.
    """

    alpha: float = 0.01

    weight: ClassVar = "one"
    changes_all: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, above=0.0)

    def user_state(self, shapes: Shapes) -> Specs:
        """The linear term."""
        return shapes.trained

    def server_rule(self, rule: ServerRule) -> ServerRule:
        """The run's own, with h."""
        return LessH(rule, self.alpha)

    def train(self, local: Local) -> Metrics:
        """Local training with the terms."""
        linear = local.state

        def correct() -> None:
            now = local.params
            for name, gradient in local.gradients().items():
                gradient += self.alpha * (now[name] - local.shared[name]) - linear[name]

        metrics = local.train(correct=correct)
        now = local.params
        for name in local.trained:
            linear[name] = linear[name] - self.alpha * (now[name] - local.shared[name])
        return metrics
