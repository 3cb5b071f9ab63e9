"""The gradient over all examples of a user."""

import numpy as np

from scheduler import Array, Local


def full_gradient(local: Local) -> dict[str, Array]:
    """The mean gradient over the user's training examples of the shared parameters that train, by name.

    Batches go through the model where it is, in train mode; the model is then as the turn began.
    """
    total = {name: np.zeros(local.shared[name].shape, np.float64) for name in local.trained}
    count = 0

    def correct() -> None:
        nonlocal count
        rows = len(next(iter(local.batch.values())))
        count += rows
        for name, gradient in local.gradients().items():
            total[name] += rows * gradient
        local.skip()

    local.train(epochs=1, only=local.trained, correct=correct)
    local.reset()
    return {name: (value / max(1, count)).astype(local.shared[name].dtype) for name, value in total.items()}
