"""Per-FedAvg: a global model that is a good start for one step of each user's own."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from scheduler import Algorithm, Array, Local, Metrics, check_number, register_algorithm
from trainer.algorithms.clipped import clipped


@register_algorithm("perfedavg")
@dataclass(frozen=True)
class PerFedAvg(Algorithm):
    """Trains the model that is best after a step on a user's own examples (MAML).

    Fallah et al. 2020, "Personalized Federated Learning with Theoretical Guarantees: A Model-Agnostic Meta-Learning
    Approach", Algorithm 1 with the approximations of section 5.  With g, g' and g'' gradients of one batch after the
    other, a step of the local rate is made for each two batches, or each three with the Hessian:

        v = g'(w - alpha g(w)),    w <- w - lr v                                                    first order
        w <- w - lr (v - alpha (g''(w + delta v) - g''(w - delta v)) / (2 delta))                   Hessian-free

    Batches are made smaller for users who have less than two, or three, of the setting's size; what is left over at
    the end makes no step.  A user's model in a test is the global one after an epoch on its training examples with
    rate alpha; that step and the one that is looked ahead are plain ones of a gradient that is clipped as the
    trainer's are (`--max-grad-norm`).  Nothing is kept of users, nor sent beyond FedAvg.

    Args:
        alpha: rate of the step that is looked ahead, and of the user's own; 0 for the local learning rate.
        hessian: whether the second order is taken, by differences of gradients.
        delta: of these differences, above 0.
        epochs: of a user's own training before its test, at least 1.
    """

    alpha: float = 0.0
    hessian: bool = False
    delta: float = 0.001
    epochs: int = 1

    local_optimizers: ClassVar = "plain"

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, least=0.0)
        check_number("delta", self.delta, above=0.0)
        check_number("epochs", self.epochs, least=1)

    def train(self, local: Local) -> Metrics:
        """Meta steps."""
        alpha = np.float32(self.alpha or local.lr)
        delta = np.float32(self.delta)
        batches = 3 if self.hessian else 2
        w: dict[str, Array] = {}
        ahead: dict[str, Array] = {}
        turn = 0

        def stay(at: dict[str, Array]) -> None:
            """Has the next batch be looked at from there."""
            local.load(at)
            local.skip()

        def correct() -> None:
            nonlocal turn
            now = {name: gradient.copy() for name, gradient in local.gradients().items()}
            turn = turn % batches + 1
            if turn == 1:
                w.update({name: local.params[name].copy() for name in local.trained})
                now = clipped(now, local.max_grad_norm)
                stay({name: w[name] - alpha * g for name, g in now.items()})
                return
            if turn == 2 and self.hessian:
                ahead.update(now)
                stay({name: w[name] + delta * v for name, v in ahead.items()})
                return
            if self.hessian:
                below = local.again({name: w[name] - delta * v for name, v in ahead.items()})
                now = {name: ahead[name] - alpha * (g - below[name]) / (2 * delta) for name, g in now.items()}
            local.load(w)
            for name, gradient in local.gradients().items():
                gradient[...] = now[name]

        count = len(next(iter(local.examples.values())))
        size = max(1, min(local.batch_size, -(-count // batches)))
        metrics = local.train(correct=correct, batch_size=size)
        if turn % batches:
            local.load(w)
        return metrics

    def personalise(self, local: Local) -> None:
        """Steps on the user's examples."""
        alpha = np.float32(self.alpha or local.lr)

        def correct() -> None:
            step, now = clipped(local.gradients(), local.max_grad_norm), local.params
            local.load({name: now[name] - alpha * g for name, g in step.items()})
            local.skip()

        local.train(epochs=self.epochs, correct=correct)
