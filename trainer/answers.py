"""What models and trainers give, held to what they must."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trainer.local_user import Metrics
from trainer.task_error import TaskError


def check_loss(model: Any, answer: Any) -> tuple[Any, Any]:
    """What `model.loss` gave, if it is a loss and metrics.

    Raises:
        TaskError: it is not; names the class.
    """
    if type(answer) is tuple and len(answer) == 2:
        loss, metrics = answer
        # What nearly all models give, found without a microsecond for each batch.
        if type(metrics) is dict and getattr(loss, "ndim", -1) == 0 and hasattr(loss, "backward"):
            return loss, metrics
    who, must = f"{type(model).__name__}.loss", "it must return (loss, metrics), metrics as name -> (sum, count)"
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise TaskError(f"{who} returns {_short(answer)}; {must}")
    loss, metrics = answer
    if not hasattr(loss, "backward"):
        raise TaskError(f"{who} returns {_short(loss)} as the loss; {must}, the loss a tensor that can be trained on")
    if math.prod(loss.shape) != 1:
        raise TaskError(f"{who} returns a loss of shape {list(loss.shape)}; it must be a scalar, such as its mean()")
    if not isinstance(metrics, Mapping):
        raise TaskError(f"{who} returns {_short(metrics)} as the metrics; {must}")
    return loss, metrics


def _short(value: Any) -> str:
    """A value for an error, in one line."""
    if hasattr(value, "backward"):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]} ..."


def add_metrics(totals: Metrics, metrics: Mapping[str, Any]) -> None:
    """Adds (sum, count) pairs, numbers or one-element tensors, to running totals in place.

    Raises:
        TaskError: what is no such pair; names it.
    """
    for name, pair in metrics.items():
        try:
            total, count = pair
        except (TypeError, ValueError) as error:
            raise TaskError(f"metric {name!r} must be a pair (sum, count), not {_short(pair)}") from error
        before = totals.get(name, (0.0, 0.0))
        try:
            totals[name] = (before[0] + _as_float(total), before[1] + _as_float(count))
        except (TypeError, ValueError) as error:
            said = f"({_short(total)}, {_short(count)})"
            raise TaskError(f"metric {name!r} must be a pair of numbers (sum, count), not {said}") from error


def _as_float(value: Any) -> float:
    """A number's value; a tensor's own `float` takes many times as long as its `item`."""
    if type(value) is int or type(value) is float:
        return float(value)
    return float(value.item() if hasattr(value, "item") else value)
