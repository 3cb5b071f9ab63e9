"""Made-up handwriting in the form of LEAF's FEMNIST: 62 signs that are no letters, 20 writers, 40 to 80 signs each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from small_data._leaf_form import write_leaf

Array = npt.NDArray[np.float64]
CLASSES, WRITERS, SIDE = 62, 20, 28


def write(out: Path, seed: int) -> None:
    """Signs of 784 numbers, 1 for paper and 0 for ink, and which they are."""
    rng = np.random.default_rng(seed)
    # Of each sign the ends of four strokes, between -1 and 1.
    signs = rng.uniform(-1, 1, (CLASSES, 4, 2, 2))
    users = {}
    for k in range(WRITERS):
        hand = _Hand(rng)
        labels = rng.integers(0, CLASSES, int(rng.integers(40, 81)))
        users[f"f{k:04d}_00"] = [hand.draw(signs[y], rng).tolist() for y in labels], labels.tolist()
    write_leaf(out, users)


class _Hand:
    """How a writer draws: size, slant, thickness and place of the signs."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._turn = np.array([[1, rng.normal(0, 0.2)], [rng.normal(0, 0.1), 1]]) * rng.uniform(7, 10)
        self._middle = rng.normal(SIDE / 2, 1, 2)
        self._width = rng.uniform(1.0, 1.8)

    def draw(self, sign: Array, rng: np.random.Generator) -> Array:
        """A sign, (784,)."""
        ends = (sign + rng.normal(0, 0.05, sign.shape)) @ self._turn.T + self._middle
        pixels = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), axis=-1).reshape(-1, 1, 2)
        start, way = ends[:, 0], ends[:, 1] - ends[:, 0]
        along = ((pixels - start) * way).sum(-1) / (way * way).sum(-1)
        nearest = start + np.clip(along, 0, 1)[..., None] * way
        distance = np.sqrt(((pixels - nearest) ** 2).sum(-1)).min(axis=1)
        ink: Array = np.clip(distance - self._width + 0.5, 0, 1)
        return np.round(ink, 3)
