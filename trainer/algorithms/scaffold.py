"""SCAFFOLD: control variates against the drift of users from each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from scheduler import (
    Algorithm,
    BadInput,
    Float64,
    Group,
    Local,
    Metrics,
    ServerRule,
    Shapes,
    Specs,
    Step,
    register_algorithm,
)
from trainer.algorithms.full_gradient import full_gradient


class Fraction(ServerRule):
    """c <- c + |S|/N times the mean."""

    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:  # noqa: D102
        return x + at.cohort / at.population * mean


@register_algorithm("scaffold")
@dataclass(frozen=True)
class Scaffold(Algorithm):
    """Corrects each local step by the difference of two control variates.

    Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", Algorithm 1.
    With x the global model, y_i a user's, c and c_i the control variates, K local steps of rate l:

        y_i <- y_i - l (g_i(y_i) - c_i + c)                       (3)
        c_i+ = g_i(x), over all examples                          (4, option I)
        c_i+ = c_i - c + (x - y_i) / (K l)                        (4, option II)
        x <- x + mean of (y_i - x),  c <- c + |S|/N mean of (c_i+ - c_i)    (5)

    Users count equally, as in the paper.  A user keeps c_i (as large as the model); c travels with the model, so
    that twice as much is sent.  `--max-grad-norm` clips the corrected gradient.  With momentum, K in (4, option II) is
    `Local.reach`, so that c_i+ is a mean of gradients again, weighted as the steps weigh them.

    Args:
        option: 1 takes a further pass over a user's examples; 2 is the paper's own choice in its experiments.
    """

    option: int = 2

    weight: ClassVar = "one"
    local_optimizers: ClassVar = "sums"
    changes_all: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.option not in (1, 2):
            raise BadInput(f"option is {self.option}; it is 1 or 2")

    def groups(self, shapes: Shapes) -> Mapping[str, Group]:
        """The server's control variate."""
        return {"c": Group(shapes.trained, Fraction(), weight="one")}

    def user_state(self, shapes: Shapes) -> Specs:
        """The user's control variate."""
        return shapes.trained

    def train(self, local: Local) -> Metrics:
        """Equations (3) and (4)."""
        c, own = local.group("c"), local.state
        at_start = full_gradient(local) if self.option == 1 else None

        def correct() -> None:
            for name, gradient in local.gradients().items():
                gradient += c[name] - own[name]

        metrics = local.train(correct=correct)
        if local.steps:
            now, change = local.params, {}
            for name, before in c.items():
                if at_start is None:
                    change[name] = (local.shared[name] - now[name]) / (local.reach * local.lr) - before
                else:
                    change[name] = at_start[name] - own[name]
                own[name] = own[name] + change[name]
            local.send("c", change)
        return metrics
