"""Ditto: each user has a model of its own, held near the global one."""

from dataclasses import dataclass
from typing import ClassVar

from scheduler import Algorithm, Local, Metrics, Shapes, Specs, check_number, register_algorithm


@register_algorithm("ditto")
@dataclass(frozen=True)
class Ditto(Algorithm):
    """Trains the global model as FedAvg does, and a personal one beside it.

    Li et al. 2021, "Ditto: Fair and Robust Federated Learning Through Personalization", Algorithm 1 and equation (2):
    user k's own model v_k minimises F_k(v) + lam/2 |v - w|^2 with w the global one of the round, by as many epochs:
    v_k <- v_k - lr (grad F_k(v_k) + lam (v_k - w)).  It starts from w, and users are tested with it beside w.
    One that has never trained makes it for the test, from w and its training examples.  A user keeps v_k, as large as
    the model; parameters that are private anyway are in it once more, since it trains them too.

    Args:
        lam: how near, 0 or more; 0 is local training.
    """

    lam: float = 0.1

    trains_one: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("lam", self.lam, least=0.0)

    def user_state(self, shapes: Shapes) -> Specs:
        """The user's own model, with private parameters of its own."""
        return shapes.layers.specs

    def train(self, local: Local) -> Metrics:
        """The personal model, then the global one."""
        self._train_own(local)
        now = local.params
        local.state.update({name: now[name].copy() for name in local.layers.specs})
        local.reset()
        return local.train()

    def personalise(self, local: Local) -> None:
        """The test is of the user's own model, too."""
        if local.known:
            local.load(local.state)
        else:
            self._train_own(local)

    def _train_own(self, local: Local) -> None:
        if local.known:
            local.load(local.state)

        def correct() -> None:
            now = local.params
            for name, gradient in local.gradients().items():
                gradient += self.lam * (now[name] - local.shared[name])

        local.train(correct=correct)
