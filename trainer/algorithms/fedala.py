"""FedALA: each user learns, element by element, how much of the global head it takes."""

from dataclasses import dataclass

import numpy as np

from scheduler import Algorithm, Array, Local, Metrics, Shapes, Specs, TensorSpec, check_number, register_algorithm
from trainer.algorithms.mean_loss import mean_loss

# Before the names of the weights in a user's state, and of the parameters that it has sent.
WEIGHT, SENT = "w.", "sent."
# Of the mean loss, from one epoch to the next, by which the weights have settled.
SETTLED = 0.01


@register_algorithm("fedala")
@dataclass(frozen=True)
class FedALA(Algorithm):
    """Begins a user's training from a mixture of its last head and the global one.

    Zhang et al. 2023, "FedALA: Adaptive Local Aggregation for Personalized Federated Learning", Algorithm 1 and
    equations (4) and (5).  With y the head that the user has sent last, x the global one, both in each element, and
    g the gradient of a batch at the mixture, on a share of its examples:

        mixture = y + (x - y) W,    W <- W - eta g (x - y), within 0 and 1

    W begins as ones; in the user's second round it is learned for some epochs, until its loss has settled, and for
    one epoch in each round after that.  The layers below the head are the global ones.  A user keeps y and W of the
    head, and is tested with its mixture; one that has never trained, with the global model.

    Args:
        eta: rate of W, above 0.
        share: of the examples that W is learned on, above 0, at most 1.
        start_epochs: at most, in a user's second round; at least 1.
        head: pattern of the parameters that are mixed, as 'out.*'; the layer of the last parameter if empty.
    """

    eta: float = 1.0
    share: float = 0.8
    start_epochs: int = 10
    head: str = ""

    def __post_init__(self) -> None:
        check_number("eta", self.eta, above=0.0)
        check_number("share", self.share, above=0.0)
        check_number("1 - share", 1 - self.share, least=0.0)
        check_number("start_epochs", self.start_epochs, least=1)

    def user_state(self, shapes: Shapes) -> Specs:
        """The head that was sent, its weights, and whether these have been learned."""
        head = [name for name in shapes.layers.head(self.head) if name in shapes.trained]
        kept = {f"{before}{name}": shapes.trained[name] for before in (SENT, WEIGHT) for name in head}
        return {"learned": TensorSpec("float32", (1,)), **kept}

    def train(self, local: Local) -> Metrics:
        """The mixture, then all of the model from there."""
        if local.known:
            self._mix(local)
        else:
            local.state.update({WEIGHT + name: np.ones_like(local.shared[name]) for name in self._head(local)})
        metrics = local.train()
        local.state.update({SENT + name: local.params[name].copy() for name in self._head(local)})
        return metrics

    def personalise(self, local: Local) -> None:
        """The mixture."""
        if local.known:
            self._mix(local)

    def _head(self, local: Local) -> list[str]:
        return [name for name in local.layers.head(self.head) if name in local.trained]

    def _mix(self, local: Local) -> None:
        """Learns the weights, and has the model hold the mixture."""
        state, head = local.state, self._head(local)
        apart = {name: local.shared[name] - state[SENT + name] for name in head}

        def mixture() -> dict[str, Array]:
            return {name: state[SENT + name] + apart[name] * state[WEIGHT + name] for name in head}

        def correct() -> None:
            for name, gradient in local.gradients().items():
                moved = state[WEIGHT + name] - np.float32(self.eta) * gradient * apart[name]
                state[WEIGHT + name] = np.clip(moved, 0, 1)
            local.load(mixture())
            local.skip()

        count = len(next(iter(local.examples.values())))
        chosen = np.sort(local.rng.permutation(count)[: max(1, round(self.share * count))])
        examples = {name: rows[chosen] for name, rows in local.examples.items()}
        # Passes in training move buffers, private ones too.
        now, layers = local.params, local.layers
        buffers = {name: now[name].copy() for name in layers.specs if name not in layers.trains}
        local.load(mixture())
        before = None
        for _ in range(1 if state["learned"][0] else self.start_epochs):
            metrics = local.train(epochs=1, only=head, correct=correct, examples=examples)
            loss = mean_loss(local, metrics)
            if before is not None and abs(before - loss) < SETTLED:
                break
            before = loss
        state["learned"] = np.ones(1, np.float32)
        local.load({**buffers, **mixture()})
