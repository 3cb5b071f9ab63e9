"""Metrics as (sum, count) pairs, reduced over users in an order that placement does not change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Pair = tuple[float, float]

# Columns of a record that are no metrics: of a round, of its users, of where its time went.
SPREAD = ("mean", "p10", "p50", "p90", "worst10", "variance")
TIMES = ("seconds", "train", "pull", "push", "wait")
# Before the names of metrics of users that are held out of training.
NEW = "new_"
# Before those of a user's own model.
PERSONAL = "personal_"
RATES = ("lr", "server_lr")
_NO_METRICS = frozenset(["date", "round", "phase", "users", "examples", "uid", "new", f"{NEW}users", *RATES, *TIMES])


@dataclass(frozen=True)
class UserResult:
    """What one user's training or evaluation gave.

    Attributes:
        uid: the user.
        examples: of its data.
        weight: of its delta in the mean; 0 where nothing is averaged.
        metrics: name -> (sum, count).
        scalars: the same, for the server step.
        new: whether the user is held out of training; the names of its metrics begin with `NEW`.
    """

    uid: str
    examples: int
    weight: float
    metrics: Mapping[str, Pair] = field(default_factory=dict)
    scalars: Mapping[str, Pair] = field(default_factory=dict)
    new: bool = False


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


def user_values(results: Sequence[UserResult], name: str) -> list[float]:
    """The users' own values of a metric, of those that have it, in ascending order; NaN last."""
    own = [ratio(r.metrics[name]) for r in results if name in r.metrics and r.metrics[name][1]]
    values: list[float] = np.sort(own).tolist()
    return values


def user_spread(results: Sequence[UserResult], name: str, *, higher_is_better: bool = True) -> dict[str, float]:
    """How a metric differs between users, by the users' own values, each user counted once.

    With v_1, ..., v_n these values: "mean" is that of all; "p10", "p50", "p90" are percentiles; "worst10" is the mean
    of the worst tenth (n / 10 users, rounded down, at least one); "variance" is the mean of (v_k - mean)^2.

    Args:
        results: of the users.
        name: of the metric.
        higher_is_better: whether the lowest values are the worst.
    """
    values = user_values(results, name)
    if not values:
        return dict.fromkeys(SPREAD, math.nan)
    low, mid, high = (float(v) for v in np.percentile(values, [10, 50, 90]))
    count = len(values)
    tenth = max(1, count // 10)
    mean = _sum(values) / count
    # NaN stands last, and is worse than any.
    worst = values[:tenth] if higher_is_better and values[-1] == values[-1] else values[-tenth:]
    variance = _sum([(value - mean) * (value - mean) for value in values]) / count
    return {"mean": mean, "p10": low, "p50": mid, "p90": high, "worst10": _sum(worst) / tenth, "variance": variance}


@dataclass(frozen=True)
class Bin:
    """Users whose own value of a metric lies in a range.

    Attributes:
        low: where it begins; it is in.
        high: where it ends; it is in the last range only.
        users: how many.
    """

    low: float
    high: float
    users: int


BINS = 10


def user_histogram(results: Sequence[UserResult], name: str) -> list[Bin]:
    """The users' own values in `BINS` ranges of equal width; none without users.

    The ranges go from 0 to 1 if all values lie there, as those of an accuracy do, else from the lowest value to the
    highest.  Users whose value is NaN or infinite come last, in a range from NaN to NaN, if there are any.
    """
    values = user_values(results, name)
    finite = np.array([value for value in values if math.isfinite(value)])
    bins = []
    if finite.size:
        low, high = float(finite[0]), float(finite[-1])
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        edges = [low * (1 - k / BINS) + high * (k / BINS) for k in range(BINS)] + [high]
        # Of a value on an edge, the range that begins there.
        places = np.clip(np.searchsorted(edges, finite, side="right") - 1, 0, BINS - 1)
        counts = np.bincount(places, minlength=BINS).tolist()
        bins = [Bin(*each) for each in zip(edges[:-1], edges[1:], counts, strict=True)]
    lost = len(values) - finite.size
    return [*bins, Bin(math.nan, math.nan, lost)] if lost else bins
