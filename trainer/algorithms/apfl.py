"""APFL: each user's model is a mixture of its own and the global one, in a share that it learns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from scheduler import Algorithm, Array, Local, Metrics, Shapes, Specs, TensorSpec, check_number, register_algorithm
from trainer.algorithms.clipped import clipped

# Before the names of a user's own parameters in its state, where `alpha` stands beside them.
OWN = "v."


@register_algorithm("apfl")
@dataclass(frozen=True)
class APFL(Algorithm):
    """Trains the global model as FedAvg does, and on the same batches a user's part of a mixture with it.

    Deng et al. 2020, "Adaptive Personalized Federated Learning", Algorithm 1 and equation (11).  With w the model in
    training, v the user's own, m = alpha v + (1 - alpha) w and g the gradient of the batch at m:

        v <- v - lr alpha g,      and at the first step of a round   alpha <- alpha - lr <v - w, g>, within 0 and 1

    v begins as the global model.  The user's model in a test is the mixture with the global model; running means and
    variances are the global ones.  g is clipped as the trainer's gradients are (`--max-grad-norm`).  A user keeps v,
    as large as the model, and alpha.  A user that has never trained does so for its test.

    Args:
        alpha: share of the user's own model at its start, from 0 to 1.
        adaptive: whether alpha changes.
    """

    alpha: float = 0.5
    adaptive: bool = True

    local_optimizers: ClassVar = "plain"

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, least=0.0)
        check_number("1 - alpha", 1 - self.alpha, least=0.0)

    def user_state(self, shapes: Shapes) -> Specs:
        """The user's own model, and its share."""
        return {"alpha": TensorSpec("float64", (1,)), **{f"{OWN}{name}": spec for name, spec in shapes.trained.items()}}

    def train(self, local: Local) -> Metrics:
        """Both models, batch by batch."""
        state = local.state
        if not local.known:
            state.update({OWN + name: local.shared[name].copy() for name in local.trained})
            state["alpha"] = np.array([self.alpha])
        fresh = True

        def correct() -> None:
            nonlocal fresh
            found = local.again(_mixture(local, local.params))
            gradient = clipped({name: found[name] for name in local.trained}, local.max_grad_norm)
            alpha = float(state["alpha"][0])
            slope = 0.0
            for name, g in gradient.items():
                own = state[OWN + name]
                slope += float(np.vdot((own - local.params[name]).astype(np.float64), g))
                state[OWN + name] = own - np.float32(local.lr * alpha) * g
            if fresh and self.adaptive:
                state["alpha"] = np.array([min(1.0, max(0.0, alpha - local.lr * slope))])
            fresh = False

        return local.train(correct=correct)

    def personalise(self, local: Local) -> None:
        """The mixture."""
        if not local.known:
            self.train(local)
            # Private parameters stay as trained, as those of a user that is known.
            local.load(local.shared)
        local.load(_mixture(local, local.shared))


def _mixture(local: Local, w: Mapping[str, Array]) -> dict[str, Array]:
    alpha = np.float32(local.state["alpha"][0])
    return {name: alpha * local.state[OWN + name] + (1 - alpha) * w[name] for name in local.trained}
