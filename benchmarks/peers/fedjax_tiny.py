"""The tiny task in FedJAX; started by tiny.py.

python fedjax_tiny.py USERS ROUNDS COHORT SECONDS
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import workload

# FedJAX 0.0.17 calls it by the name that JAX has given up.
jax.tree_map = jax.tree_util.tree_map

import fedjax  # noqa: E402 - after the line above
from fedjax.algorithms import fed_avg  # noqa: E402


def cross_entropy(params: Any, batch: Any, key: Any) -> Any:
    """Mean cross entropy of logistic regression."""
    logits = batch["x"] @ params["weight"] + params["bias"]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][:, None], axis=1)
    return -jnp.mean(chosen)


def main(users: Path, rounds: int, cohort: int, seconds: Path) -> None:
    """Trains all rounds, each to its end before the next begins."""
    with np.load(users) as file:
        x, y = file["x"], file["y"]
    clients = {str(i): {"x": rows, "y": labels} for i, (rows, labels) in enumerate(zip(x, y, strict=True))}
    data = fedjax.InMemoryFederatedData(clients)
    algorithm = fed_avg.federated_averaging(
        jax.jit(jax.grad(cross_entropy)),
        fedjax.optimizers.create_optimizer_from_optax(optax.chain(optax.clip_by_global_norm(5.0), optax.sgd(0.1))),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=10, num_epochs=1),
    )
    classes = int(y.max()) + 1
    state = algorithm.init({"weight": jnp.zeros((x.shape[2], classes)), "bias": jnp.zeros(classes)})
    sampler = fedjax.client_samplers.UniformGetClientSampler(data, cohort, seed=0)
    ends = []
    for _ in range(rounds):
        state, _ = algorithm.apply(state, sampler.sample())
        jax.block_until_ready(state.params)
        ends.append(time.perf_counter())
    workload.report(seconds, np.diff(ends).tolist())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
