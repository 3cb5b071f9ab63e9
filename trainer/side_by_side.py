"""Tests of several users in one go: their examples side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.local_user import Examples, Metrics
from trainer.task_error import TaskError

Numbers = npt.NDArray[np.float64]

# Of one forward pass: at most so many examples, and as many bytes, but no less than a few.
_MOST_ROWS, _BYTES, _FEW_ROWS = 256, 4 << 20, 16


def alike(users: Sequence[Examples]) -> Iterator[list[int]]:
    """Places of those users whose examples can stand in one array: of the same names, shapes and dtypes."""
    kinds: dict[Any, list[int]] = {}
    for place, examples in enumerate(users):
        kind = tuple((name, rows.shape[1:], rows.dtype) for name, rows in examples.items())
        kinds.setdefault(kind, []).append(place)
    yield from kinds.values()


def joined(users: Sequence[Examples]) -> dict[str, npt.NDArray[Any]]:
    """The examples of users who are alike, one user after another."""
    return {name: np.concatenate([examples[name] for examples in users]) for name in users[0]}


def user_sums(pairs: Mapping[str, tuple[Numbers, Numbers]], counts: Sequence[int]) -> list[Metrics]:
    """Each user's metrics out of those of all examples.

    Args:
        pairs: name -> (sums, counts), one number an example each, one user's examples after another's.
        counts: examples of each user.

    Returns:
        Of each user name -> (sum, count), correctly rounded.
    """
    found: list[Metrics] = []
    end = 0
    for count in counts:
        begin, end = end, end + count
        found.append(
            {n: (math.fsum(sums[begin:end]), math.fsum(counted[begin:end])) for n, (sums, counted) in pairs.items()}
        )
    return found


def says_rows(model: Any) -> bool:
    """Whether a model says that its examples are independent, and of the loss that it has, not of one of a class above.

    A subclass may replace `loss` and not think of `example_metrics`.
    """
    kinds = type(model).__mro__

    def depth(name: str) -> int:
        return next((number for number, kind in enumerate(kinds) if name in vars(kind)), len(kinds))

    return bool(getattr(model, "examples_are_independent", False)) and depth("example_metrics") <= depth("loss")


def evaluate_rows(
    model: Any, users: Sequence[Examples], hold: Callable[[Examples], Mapping[str, Any]]
) -> list[Metrics]:  # fmt: skip
    """Metrics of each user, of a model that has `example_metrics`.

    Args:
        model: the model.
        users: examples of each.
        hold: see `TrainerBase.hold`.

    Returns:
        Name -> (sum, count), in the users' order.
    """
    import paddle

    totals: list[Metrics] = [{} for _ in users]
    for places in alike(users):
        mine = [users[place] for place in places]
        counts = [len(next(iter(examples.values()))) for examples in mine]
        examples, total = joined(mine), sum(counts)
        held, size = hold(examples), _rows_at_once(examples, total)
        with paddle.no_grad():
            blocks = [
                _example_metrics(model, {name: rows[k : k + size] for name, rows in held.items()}, min(size, total - k))
                for k in range(0, total, size)
            ]
        pairs = {
            name: (np.concatenate([b[name][0] for b in blocks]), np.concatenate([b[name][1] for b in blocks]))
            for name in blocks[0]
        }
        for place, metrics in zip(places, user_sums(pairs, counts), strict=True):
            totals[place] = metrics
    return totals


def _rows_at_once(examples: Examples, count: int) -> int:
    """Examples of one forward pass: fewer of large ones, whose activations are large."""
    each = sum(rows.nbytes for rows in examples.values()) / count
    return int(min(_MOST_ROWS, max(_FEW_ROWS, _BYTES // max(1.0, each))))


def _example_metrics(model: Any, batch: Mapping[str, Any], size: int) -> dict[str, tuple[Numbers, Numbers]]:
    """What a model says of the examples of a batch, as arrays.

    Raises:
        TaskError: it is not one number an example.
    """
    answer = model.example_metrics(batch)
    try:
        return {str(name): (_numbers(sums, size), _numbers(counts, size)) for name, (sums, counts) in answer.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise TaskError(
            f"{type(model).__name__}.example_metrics must return name -> (sums, counts), {size} numbers each for a "
            f"batch of {size} examples, or one number if it is the same for all ({error})"
        ) from error


def _numbers(value: Any, size: int) -> Numbers:
    numbers = np.asarray(value.numpy() if hasattr(value, "numpy") else value, np.float64)
    if numbers.shape not in ((), (size,)):
        raise ValueError(f"it returns shape {list(numbers.shape)}")
    return np.broadcast_to(numbers, (size,))
