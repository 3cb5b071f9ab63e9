"""Synthetic(1, 1) of FedProx (Li et al. 2020, section 5.1): 30 users, 60 numbers, 10 classes, in LEAF's form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from small_data._leaf_form import write_leaf

Array = npt.NDArray[np.float64]


def write(out: Path, seed: int) -> None:
    """Synthetic(1, 1); no user has more than 500 examples, where FedProx has some of many thousands."""
    users = synthetic(1.0, 1.0, seed=seed, most=500)
    write_leaf(out, {uid: (np.round(x, 6).tolist(), y.tolist()) for uid, (x, y) in users.items()}, test_share=0.1)


def synthetic(
    alpha: float,
    beta: float,
    *,
    seed: int,
    users: int = 30,
    dim: int = 60,
    classes: int = 10,
    most: int | None = None,
) -> dict[str, tuple[Array, npt.NDArray[np.int64]]]:
    """Users, each with a softmax regression of its own.

    u_k ~ N(0, alpha), W_k and b_k ~ N(u_k, 1); B_k ~ N(0, beta), v_k ~ N(B_k, 1), x ~ N(v_k, diag(j^-1.2));
    y = argmax(x W_k + b_k).  As in FedProx's own program, alpha and beta are standard deviations, and a user
    has 50 examples and a log-normal(4, 2) number more.

    Args:
        alpha: how much users' models differ.
        beta: how much users' inputs differ.
        seed: of everything.
        users: how many.
        dim: numbers of an example.
        classes: of examples.
        most: examples of a user at most.

    Returns:
        uid -> x, float64 (n, dim), and y, int64 (n,).
    """
    rng = np.random.default_rng(seed)
    counts = rng.lognormal(4, 2, users).astype(int) + 50
    counts = counts if most is None else np.minimum(counts, most)
    models, inputs = rng.normal(0, alpha, users), rng.normal(0, beta, users)
    deviation = np.arange(1, dim + 1) ** -0.6  # whose square is j^-1.2
    made = {}
    for k, count in enumerate(counts):
        center = rng.normal(inputs[k], 1, dim)
        weight, bias = rng.normal(models[k], 1, (dim, classes)), rng.normal(models[k], 1, classes)
        x = rng.normal(center, deviation, (count, dim))
        made[f"f_{k:05d}"] = x, (x @ weight + bias).argmax(axis=1)
    return made
