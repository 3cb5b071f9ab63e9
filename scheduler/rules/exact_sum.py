"""The weighted mean of deltas, exact and in any order.

Floating-point addition in another order gives other bits, so deltas are added
as integers.  User k with weight w_k and delta d_k contributes, element by element,

    q_k = rint(w_k * d_k * 2**(FRACTION_BITS - e))

to an int64 sum, where d_k is the difference of the parameters in their own precision
(float32 at least) and e the round's scale exponent, the least with 2**e >= W, the sum
of the cohort's weights.  Integer sums do not depend on order, so any number of shards and
simulators gives the same sum, and the mean  sum_k(q_k) * 2**(e - FRACTION_BITS) / W
the same bits.

Rounding to the grid moves q_k by half a step at most, and a step is less than 2**-47 of
the mean, since 2**e < 2 W: finer than float32 holds for any parameter above 2**-23 in
size.  Weights may be of any size, 1e-300 as well as 1e300, and differ as much: all is
scaled by powers of two, w_k * 2**(FRACTION_BITS - e) is at most 2**48, and what
underflows there is less than 2**-1000 of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from protos.codec import Array, TensorSpec
from protos.errors import BadInput

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

FRACTION_BITS = 48
# Small enough that every temporary stays in a core's cache.
BLOCK = 32_768
# Adding 1.5 * 2**52 to a float64 of size < 2**51 leaves its nearest integer in the low bits.
_MAGIC = 1.5 * 2.0**52
_MAGIC_BITS = np.float64(_MAGIC).view(np.int64)
_MAGIC_LIMIT = 2.0**51
# More than rounding can take away from the root of a block's sum of squares.
_MARGIN = 1.01


def scale_exponent(weights: Sequence[float]) -> int:
    """The grid's exponent e for a cohort with these weights: the least with 2**e >= their sum.

    Args:
        weights: finite and not negative, one at least above 0.
    """
    total, shift = _scaled_total(weights)
    mantissa, exponent = math.frexp(total)
    return shift + exponent - (mantissa == 0.5)


def mean_factor(weights: Sequence[float], exponent: int) -> float:
    """What an int64 sum is multiplied by to give the weighted mean delta.

    Args:
        weights: of the cohort.
        exponent: its `scale_exponent`.
    """
    total, shift = _scaled_total(weights)
    return math.ldexp(1.0, exponent - FRACTION_BITS - shift) / total


def _scaled_total(weights: Sequence[float]) -> tuple[float, int]:
    """The sum of weights as total * 2**shift, rounded correctly in any order: by itself it may be beyond float64."""
    shift = math.frexp(max(weights))[1]
    return math.fsum(math.ldexp(weight, -shift) for weight in weights), shift


@dataclass(frozen=True)
class Sums:
    """Exact sums of weighted deltas, one accumulator's.

    Rows (indices of a parameter's first axis) that nobody has added to are not even
    zeroed: of a large embedding a user touches few.

    Attributes:
        totals: int64 by parameter name; only touched rows mean anything.
        touched: bool by parameter name, one for each row.
        streamed: whether they are this process's own memory, not another's.
    """

    totals: Mapping[str, Int64]
    touched: Mapping[str, npt.NDArray[np.bool_]]
    streamed: bool = False

    @classmethod
    def of(cls, arrays: Mapping[str, Array], names: Iterable[str]) -> Sums:
        """The sums in arrays laid out as `sum_specs` says."""
        names = list(names)
        return cls({n: arrays[f"sum/{n}"] for n in names}, {n: arrays[f"touched/{n}"] for n in names})

    @classmethod
    def whole(cls, totals: Mapping[str, Int64]) -> Sums:
        """Sums all of whose rows mean something."""
        touched = {name: np.ones(_rows(total.shape), np.bool_) for name, total in totals.items()}
        return cls(totals, touched, streamed=True)

    def check(self, bound: int) -> None:
        """Refuses sums that no users of this share can have: they could overflow those of the others.

        Args:
            bound: what no element may go beyond, see `share_bound`.

        Raises:
            BadInput: with the parameter and the element.
        """
        for name, total in self.totals.items():
            for rows in _touched_blocks(total, self.touched[name]):
                worst = max(int(rows.max()), -int(rows.min()))
                if worst > bound:
                    raise BadInput(f"parameter {name!r}: a sum of {worst} is beyond the {bound} that its users can add")

    def settle(self, name: str) -> Int64:
        """One parameter's sum with zeros where nobody added."""
        touched = self.touched[name]
        if not touched.all():
            _by_row(self.totals[name])[~touched] = 0
            touched.fill(True)
        return self.totals[name]


def sum_specs(shared: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The arrays behind the `Sums` of shared parameters."""
    totals = {f"sum/{name}": TensorSpec("int64", spec.shape) for name, spec in shared.items()}
    touched = {f"touched/{name}": TensorSpec("bool", (_rows(spec.shape),)) for name, spec in shared.items()}
    return {**totals, **touched}


def share_bound(users: int, cohort_size: int) -> int:
    """What no element of the sum of so many of a cohort's users goes beyond: see `ExactSum`."""
    return users * (2**62 // cohort_size + 1)


def row_blocks(rows: npt.NDArray[np.intp], length: int) -> Iterator[npt.NDArray[np.intp]]:
    """Cuts rows of so many elements into blocks, so that temporaries stay small however many there are."""
    step = max(1, BLOCK // max(1, length))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _touched_blocks(total: Int64, touched: npt.NDArray[np.bool_]) -> Iterator[Int64]:
    """What means something in a parameter's sum; never empty."""
    if not total.size:
        return
    if touched.all():
        yield total
        return
    by_row = _by_row(total)
    for rows in row_blocks(np.flatnonzero(touched), by_row.shape[1]):
        yield by_row[rows]


def _rows(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 1


def _by_row(array: Array) -> Array:
    return array.reshape(_rows(array.shape), -1) if array.size else array.reshape(_rows(array.shape), 0)


class ExactSum:
    """Adds users' weighted deltas to `Sums`, starting from nothing.

    Args:
        sums: added to in place.
        cohort_size: users of the whole cohort; bounds what one may add, so that no sum overflows.
        exponent: the round's `scale_exponent`.

    No sum overflows: each user may add less than 2**62 / cohort_size in size, and half a step of rounding.
    """

    def __init__(self, sums: Sums, cohort_size: int, exponent: int) -> None:
        self._sums = sums
        self._limit = 2.0**63 / (2 * cohort_size)
        self._exponent = exponent
        self._fast_limit = min(self._limit, _MAGIC_LIMIT)
        self._scratch: Float64 = np.empty(BLOCK, np.float64)
        self._deltas: dict[np.dtype[Any], Array] = {}
        # Parameters all of whose rows are touched.
        self._whole: set[str] = set()
        for touched in sums.touched.values():
            touched.fill(False)

    def take(
        self, name: str, new: Array, old: Array, weight: float, uid: str, rows: npt.NDArray[np.intp] | None = None
    ) -> None:
        """Adds weight * (new - old), and puts `new` back to `old` for the next user.

        Args:
            name: the parameter.
            new: float array, the parameter after local training; set to `old`.
            old: the same before it.
            weight: the user's weight; with 0 it adds nothing.
            uid: for the error.
            rows: distinct indices of the first axis outside of which new equals old; None for all.

        Raises:
            BadInput: NaN or infinity, or a delta beyond what the sum can hold.
        """
        total, touched = self._sums.totals[name], self._sums.touched[name]
        put = _Put(name, uid, math.ldexp(weight, FRACTION_BITS - self._exponent))
        if rows is None:
            self._take_flat(put, new.reshape(-1), old.reshape(-1), total.reshape(-1), fresh=self._whole_now(name))
            return
        by_row = _by_row(total)
        by_row[rows[~touched[rows]]] = 0
        touched[rows] = True
        # Indexing copies the rows; the sum of these few goes back in one piece.
        now, before = _by_row(new)[rows], _by_row(old)[rows]
        part = np.empty(now.shape, np.int64)
        self._take_flat(put, now.reshape(-1), before.reshape(-1), part.reshape(-1), fresh=True)
        by_row[rows] += part
        _by_row(new)[rows] = before

    def add(self, name: str, sent: Array, weight: float, uid: str, exponent: int | None = None) -> None:
        """Adds weight * sent.

        Args:
            name: of the array.
            sent: float array of its shape.
            weight: the user's weight.
            uid: for the error.
            exponent: of the grid, for an array in whose mean users have other weights.

        Raises:
            BadInput: as `take`.
        """
        put = _Put(name, uid, math.ldexp(weight, FRACTION_BITS - (self._exponent if exponent is None else exponent)))
        fresh, total, flat = self._whole_now(name), self._sums.totals[name].reshape(-1), sent.reshape(-1)
        for start in range(0, total.size, BLOCK):
            part = slice(start, start + BLOCK)
            self._put(put, flat[part], total[part], fresh=fresh)

    def _whole_now(self, name: str) -> bool:
        """From now on all rows of a parameter mean something; returns whether nothing was added to any so far."""
        if name in self._whole:
            return False
        self._whole.add(name)
        touched = self._sums.touched[name]
        fresh = not touched.any()
        if fresh:
            touched.fill(True)
        else:
            self._sums.settle(name)
        return fresh

    def _take_flat(self, put: _Put, new: Array, old: Array, total: Int64, *, fresh: bool) -> None:
        room = self._deltas.get(new.dtype)
        if room is None:
            room = self._deltas[new.dtype] = np.empty(BLOCK, np.promote_types(new.dtype, np.float32))
        for start in range(0, total.size, BLOCK):
            part = slice(start, start + BLOCK)
            now, before, target = new[part], old[part], total[part]
            delta = room[: target.size]
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found and named
                np.subtract(now, before, out=delta)
                self._put(put, delta, target, fresh=fresh)
            np.copyto(now, before)

    def _put(self, put: _Put, delta: Array, target: Int64, *, fresh: bool) -> None:
        """Adds a block to its sum, or sets it where there is nothing yet."""
        # One pass that bounds every element and lets no NaN or infinity by.
        bound = math.sqrt(float(np.dot(delta, delta))) * _MARGIN
        if bound == 0.0:
            if fresh:
                target.fill(0)
            return
        grid = self._scratch[: target.size]
        exact = not bound * put.factor < self._fast_limit
        if exact:
            self._check(put, float(delta.min()), float(delta.max()))
        np.copyto(grid, delta)
        np.multiply(grid, put.factor, out=grid)
        if exact:
            bits = np.rint(grid).astype(np.int64)
            if fresh:
                target[...] = bits
        else:
            np.add(grid, _MAGIC, out=grid)
            bits = grid.view(np.int64)
            np.subtract(bits, _MAGIC_BITS, out=target if fresh else bits)
        if not fresh:
            np.add(target, bits, out=target)

    def _check(self, put: _Put, low: float, high: float) -> None:
        """Refuses what the sum cannot hold."""
        # Not `size >= limit`: a NaN must fail too.
        if not max(-low, high) * put.factor < self._limit:
            raise self._refusal(put, low, high)

    def _refusal(self, put: _Put, low: float, high: float) -> BadInput:
        if not (math.isfinite(low) and math.isfinite(high)):
            return BadInput(
                f"uid {put.uid!r}: NaN or infinity in the delta of parameter {put.name!r}: its local training "
                "diverged; lower the local learning rate or --max-grad-norm"
            )
        return BadInput(
            f"uid {put.uid!r}: a delta of {max(-low, high):g} in parameter {put.name!r} is beyond the "
            f"{self._limit / put.factor:g} that the exact sum holds; lower the local learning rate"
        )


class _Put(NamedTuple):
    name: str
    uid: str
    factor: float
