"""Examples in a new order, and cut into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from trainer.local_user import Examples

# Of examples whose tensors are cut at once: the pieces are copies.
CUT_BYTES = 1 << 20


def shuffled(examples: Examples, rng: np.random.Generator | None) -> Examples:
    """The same examples in a new order, or in the same without a stream."""
    if rng is None:
        return examples
    order = rng.permutation(len(next(iter(examples.values()))))
    return {name: rows[order] for name, rows in examples.items()}


def cut_at_once(held: Mapping[str, Any], count: int, size: int) -> list[dict[str, Any]] | None:
    """All batches by one operator an array, instead of one a batch and array; None if they are not plain tensors."""
    import paddle

    plain = all(isinstance(rows, paddle.Tensor) and rows.shape[:1] == [count] for rows in held.values())
    if count <= size or not plain:
        return None
    sizes = [min(size, count - start) for start in range(0, count, size)]
    pieces = [paddle.split(rows, sizes) for rows in held.values()]
    return [dict(zip(held, batch, strict=True)) for batch in zip(*pieces, strict=True)]


def cut(held: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """Batches of so many rows, the last with what is left."""
    for start in range(0, len(next(iter(held.values()))), size):
        yield {name: rows[start : start + size] for name, rows in held.items()}


def whole_batches(batches: Iterable[dict[str, Any]], size: int) -> Iterator[dict[str, Any]]:
    """Batches without the last one if it is smaller, unless it is the only one."""
    for number, batch in enumerate(batches):
        if number and len(next(iter(batch.values()))) < size:
            return
        yield batch
