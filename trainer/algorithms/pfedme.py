"""pFedMe: each user's model is the proximal point of the global one."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from scheduler import Algorithm, Array, Local, Metrics, Shapes, Specs, check_number, register_algorithm
from trainer.algorithms.clipped import clipped


@register_algorithm("pfedme")
@dataclass(frozen=True)
class PFedMe(Algorithm):
    """Moves the model towards a user's own, which is found anew for each batch.

    Dinh et al. 2020, "Personalized Federated Learning with Moreau Envelopes", Algorithm 1 and equation (8).  For each
    batch, with w the model in training, theta begins as w and makes `steps` steps of rate r,

        theta <- theta - r (g(theta) + lam (theta - w)),    then   w <- w - lr lam (w - theta)

    r is the local rate, and no more than 1 / (1 + lam), above which the steps go past theta's place; for the same
    reason w goes no farther than theta (lr lam is taken for 1 if it is more).  These steps are plain ones; g is clipped
    as the trainer's gradients are (`--max-grad-norm`), the step of w is not.  A user keeps the last theta, as large as
    the model, and is tested with it; one that has never trained does so for its test.  The paper's beta is the
    server's rate; users count by their weight, as in the authors' program.

    Args:
        lam: how near theta stays, above 0.
        steps: on each batch, at least 1.
    """

    lam: float = 15.0
    steps: int = 5

    local_optimizers: ClassVar = "plain"

    def __post_init__(self) -> None:
        check_number("lam", self.lam, above=0.0)
        check_number("steps", self.steps, least=1)

    def user_state(self, shapes: Shapes) -> Specs:
        """The user's own model."""
        return shapes.trained

    def train(self, local: Local) -> Metrics:
        """Batch by batch."""
        rate = np.float32(min(local.lr, 1 / (1 + self.lam)))
        pull = np.float32(min(1.0, local.lr * self.lam))

        def correct() -> None:
            now, first = local.params, local.gradients()
            w: dict[str, Array] = {name: now[name].copy() for name in local.trained}
            theta = w
            for k in range(self.steps):
                found = local.again(theta) if k else first
                g = clipped({name: found[name] for name in w}, local.max_grad_norm)
                theta = {n: theta[n] - rate * (g[n] + np.float32(self.lam) * (theta[n] - w[n])) for n in w}
            local.load({name: w[name] - pull * (w[name] - theta[name]) for name in w})
            local.skip()
            local.state.update(theta)

        if not local.known:
            # What a user without a batch has.
            local.state.update({name: local.shared[name].copy() for name in local.trained})
        return local.train(correct=correct)

    def personalise(self, local: Local) -> None:
        """The user's own model."""
        if not local.known:
            self.train(local)
            # Private parameters stay as trained, as those of a user that is known.
            local.load(local.shared)
        local.load({name: local.state[name] for name in local.trained})
