"""What a turn gives, held to what it must be and against each other; what a model holds of nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from protos.codec import Array, TensorSpec
from protos.errors import BadInput
from scheduler.rules.metrics import Pair, ratio
from simulator.contracts import Trainer


def nobodys(spec: TensorSpec) -> Array:
    """What stands in the place of a private parameter while it is nobody's: NaN, which shows in all that reads it."""
    value = np.zeros(spec.shape, spec.dtype)
    if np.issubdtype(value.dtype, np.floating):
        value.fill(np.nan)
    return value


def is_better(trainer: Trainer, one: Mapping[str, Pair], other: Mapping[str, Pair]) -> float:
    """1.0 if the result of the task (the loss where it has none) is better in the first, else 0.0."""
    name, higher = getattr(trainer, "result", None), getattr(trainer, "higher_is_better", True)
    if name is None or name not in one:
        name, higher = "loss", False
    if name not in one or name not in other:
        return 0.0
    mine, theirs = ratio(one[name]), ratio(other[name])
    return float(mine > theirs if higher else mine < theirs)


def checked(who: str, metrics: Any) -> dict[str, Pair]:
    """Metrics as plain floats.

    Raises:
        BadInput: not name -> (sum, count).
    """
    try:
        return {str(name): (float(total), float(count)) for name, (total, count) in metrics.items()}
    except (AttributeError, TypeError, ValueError) as error:
        said = " ".join(repr(metrics).split())[:200]
        raise BadInput(f"{who} must return metrics as name -> (sum, count), not {said}") from error
