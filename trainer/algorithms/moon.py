"""MOON: features of a user's model are held near those of the global one, and away from those it had before."""

from dataclasses import dataclass

import numpy as np

from scheduler import Algorithm, Array, Local, Metrics, Shapes, Specs, check_number, register_algorithm


@register_algorithm("moon")
@dataclass(frozen=True)
class Moon(Algorithm):
    """Adds a contrastive term between the features of three models.

    Li et al. 2021, "Model-Contrastive Federated Learning", equations (3) and (4).  With z, z_glob and z_prev what goes
    into the head of the model in training, of the global one and of the one that the user has sent last time, all
    of the same example, the loss of a batch gets mu times the mean of

        -log( exp(sim(z, z_glob) / T) / (exp(sim(z, z_glob) / T) + exp(sim(z, z_prev) / T)) ),   sim the cosine

    All three see the batch as the model in training does (batch norm by its statistics, dropout drawn for each).  A
    user keeps the model that it has sent; one that has never trained has sent the global one.

    Args:
        mu: weight of the term, 0 or more; 0 is FedAvg.
        temperature: T, above 0.
        head: pattern of the head's parameters, as 'out.*'; the layer of the last parameter if empty.
    """

    mu: float = 1.0
    temperature: float = 0.5
    head: str = ""

    def __post_init__(self) -> None:
        check_number("mu", self.mu, least=0.0)
        check_number("temperature", self.temperature, above=0.0)

    def check(self, shapes: Shapes) -> None:
        """Refuses a model without a head."""
        shapes.layers.head(self.head)

    def user_state(self, shapes: Shapes) -> Specs:
        """The model that the user has sent."""
        return shapes.shared

    def train(self, local: Local) -> Metrics:
        """Local training with the term."""
        previous = {name: value.copy() for name, value in local.state.items()} if local.known else local.shared

        def on_features(z: Array) -> Array:
            near, far = (local.features(model, head=self.head) for model in (local.shared, previous))
            return self.mu * contrast_gradient(z, near, far, self.temperature)

        metrics = local.train(on_features=on_features, head=self.head)
        local.state.update({name: local.params[name].copy() for name in local.shared})
        return metrics


def contrast_gradient(z: Array, near: Array, far: Array, temperature: float) -> Array:
    """The gradient of the term of a batch with respect to z.

    Args:
        z: (n, d), features of the model in training.
        near: (n, d), of the global model.
        far: (n, d), of the one before.
        temperature: T.

    Returns:
        (n, d) of the mean over the batch.
    """
    sim_near, to_near = _cosine(z, near)
    sim_far, to_far = _cosine(z, far)
    # exp(far) / (exp(near) + exp(far)), without an overflow.
    share = 0.5 * (1 + np.tanh((sim_far - sim_near) / (2 * temperature)))
    gradient: Array = share[:, None] * (to_far - to_near) / (temperature * len(z))
    return gradient


def _cosine(z: Array, other: Array) -> tuple[Array, Array]:
    """Cosines of rows, (n,), and their gradients with respect to z, (n, d)."""
    length = np.maximum(np.linalg.norm(z, axis=1), 1e-8)
    unit, to = z / length[:, None], other / np.maximum(np.linalg.norm(other, axis=1), 1e-8)[:, None]
    cosine: Array = np.einsum("nd,nd->n", unit, to)
    return cosine, (to - cosine[:, None] * unit) / length[:, None]
