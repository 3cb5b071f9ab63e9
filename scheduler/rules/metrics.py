"""Metrics as (sum, count) pairs, reduced over users in an order that placement does not change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Pair = tuple[float, float]

# Columns of a record that are no metrics: of a round, of its users, of where its time went.
SPREAD = ("mean", "p10", "p50", "p90")
TIMES = ("seconds", "train", "pull", "push", "wait")
_NO_METRICS = frozenset(["date", "round", "phase", "users", "examples", "uid", *TIMES])


@dataclass(frozen=True)
class UserResult:
    """What one user's training or evaluation gave.

    Attributes:
        uid: the user.
        examples: of its data.
        weight: of its delta in the mean; 0 where nothing is averaged.
        metrics: name -> (sum, count).
        scalars: the same, for the server step.
    """

    uid: str
    examples: int
    weight: float
    metrics: Mapping[str, Pair] = field(default_factory=dict)
    scalars: Mapping[str, Pair] = field(default_factory=dict)


def spread_columns(name: str) -> list[str]:
    """The columns that tell how a metric differs between users, in the order of `SPREAD`."""
    return [f"{name}_user_{key}" for key in SPREAD]


def is_column(name: str) -> bool:
    """Whether a record has, or may have, a column of this name that is no metric."""
    return name in _NO_METRICS or name.endswith(tuple(spread_columns("")))


def reduce_metrics(results: Sequence[UserResult]) -> dict[str, Pair]:
    """The sums and counts over users, correctly rounded (so the same in any order)."""
    return reduce_pairs([result.metrics for result in results])


def reduce_pairs(each: Sequence[Mapping[str, Pair]]) -> dict[str, Pair]:
    """The sums and counts of pairs by name, correctly rounded."""
    names = sorted({name for pairs in each for name in pairs})
    return {
        name: (
            _sum([pairs[name][0] for pairs in each if name in pairs]),
            _sum([pairs[name][1] for pairs in each if name in pairs]),
        )
        for name in names
    }


def mean_metrics(results: Sequence[UserResult]) -> dict[str, float]:
    """Each metric over all users: the sum of their sums divided by the sum of their counts."""
    return {name: ratio(pair) for name, pair in reduce_metrics(results).items()}


def _sum(values: Sequence[float]) -> float:
    """Correctly rounded; NaN where a value is not finite or the sum is beyond float64."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # ValueError: infinity minus infinity
        return math.nan


def ratio(pair: Pair) -> float:
    """The sum over the count, NaN for a count of 0."""
    return pair[0] / pair[1] if pair[1] else math.nan


def user_spread(results: Sequence[UserResult], name: str) -> dict[str, float]:
    """How a metric differs between users: "mean", "p10", "p50", "p90" of users' own values."""
    values = np.sort([ratio(r.metrics[name]) for r in results if name in r.metrics and r.metrics[name][1]])
    if not values.size:
        return dict.fromkeys(SPREAD, math.nan)
    low, mid, high = (float(v) for v in np.percentile(values, [10, 50, 90]))
    return {"mean": math.fsum(values.tolist()) / values.size, "p10": low, "p50": mid, "p90": high}
