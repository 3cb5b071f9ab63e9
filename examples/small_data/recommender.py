"""Ratings in the form of MovieLens' u.data: made of factors and biases, some items far more rated than others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ITEMS, FACTORS = 300, 4


def write(out: Path, seed: int, users: int = 200) -> None:
    """Writes u.data: user, item, rating 1 to 5, time; at least 20 ratings a user, as in MovieLens.

    A rating is 3.5 + b_i + b_u + p_u . q_i + noise, rounded; all normal, with deviations 0.4, 0.4, 0.8 and 0.7.

    Args:
        out: an empty folder.
        seed: of everything.
        users: how many.
    """
    rng = np.random.default_rng(seed)
    liked = rng.permutation(1 / (10 + np.arange(ITEMS)))
    item_bias, factors = rng.normal(0, 0.4, ITEMS), rng.normal(0, 1, (ITEMS, FACTORS))
    lines = []
    for user in range(1, users + 1):
        count = min(ITEMS, 20 + int(rng.lognormal(2.5, 1.0)))
        items = rng.choice(ITEMS, count, replace=False, p=liked / liked.sum())
        taste = rng.normal(0, 0.8 / FACTORS**0.5, FACTORS)
        wanted = 3.5 + item_bias[items] + rng.normal(0, 0.4) + factors[items] @ taste + rng.normal(0, 0.7, count)
        ratings = np.clip(np.rint(wanted), 1, 5).astype(int)
        times = 880_000_000 + np.sort(rng.integers(0, 10_000_000, count))
        lines += [f"{user}\t{i + 1}\t{r}\t{t}\n" for i, r, t in zip(items, ratings, times, strict=True)]
    order = rng.permutation(len(lines))
    (out / "u.data").write_text("".join(lines[k] for k in order), encoding="ascii")
