"""The weighted mean of deltas, exact and in any order.

Floating-point addition in another order gives other bits, so deltas are added
as integers.  User k with weight w_k and delta d_k contributes, element by element,

    q_k = rint(w_k * d_k * 2**(FRACTION_BITS - e))

to an int64 sum, with e the round's scale exponent, 2**e >= the cohort's examples.
Integer sums do not depend on order, so any number of shards and simulators gives
the same sum, and the mean  sum_k(q_k) * 2**(e - FRACTION_BITS) / sum_k(w_k)  the same
bits.  The grid is 2**-48 of the mean delta: finer than float32 holds for any
parameter above 2**-24 in size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from protos.codec import Array, TensorSpec
from protos.errors import BadInput

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

FRACTION_BITS = 48
# Small enough that every temporary stays in a core's cache.
BLOCK = 16_384
# Adding 1.5 * 2**52 to a float64 of size < 2**51 leaves its nearest integer in the low bits.
_MAGIC = 1.5 * 2.0**52
_MAGIC_BITS = np.float64(_MAGIC).view(np.int64)
_MAGIC_LIMIT = 2.0**51


def scale_exponent(examples: int) -> int:
    """The grid's exponent e for a cohort with so many examples: the least with 2**e >= examples."""
    return max(0, math.ceil(math.log2(max(1, examples))))


class ExactSum:
    """Adds users' weighted deltas to int64 arrays.

    Args:
        totals: int64 arrays by parameter name, added to in place.
        cohort_size: users of the whole cohort; bounds what one may add, so that no sum overflows.
        exponent: the round's `scale_exponent`.
    """

    def __init__(self, totals: Mapping[str, Int64], cohort_size: int, exponent: int) -> None:
        self._totals = {name: total.reshape(-1) for name, total in totals.items()}
        self._limit = 2.0**63 / (2 * cohort_size)
        self._scale = 2.0 ** (FRACTION_BITS - exponent)
        self._scratch: Float64 = np.empty(BLOCK, np.float64)

    def add(self, name: str, new: Array, old: Array, weight: float, uid: str) -> None:
        """Adds weight * (new - old).

        Args:
            name: the parameter.
            new: float array, the parameter after local training.
            old: the same before it.
            weight: the user's weight, > 0.
            uid: for the error.

        Raises:
            BadInput: NaN or infinity, or a delta beyond what the sum can hold.
        """
        new, old, total = new.reshape(-1), old.reshape(-1), self._totals[name]
        factor = weight * self._scale
        for start in range(0, total.size, BLOCK):
            part = slice(start, start + BLOCK)
            target = total[part]
            grid = self._scratch[: target.size]
            np.copyto(grid, new[part])
            with np.errstate(invalid="ignore"):  # infinity minus infinity; the check below names it
                np.subtract(grid, old[part], out=grid)
            low, high = grid.min(), grid.max()
            if low == high == 0.0:
                continue
            size = max(-low, high) * factor
            # Not `size >= limit`: a NaN must fail too.
            if not size < self._limit:
                raise self._refusal(name, uid, float(low), float(high), factor)
            np.multiply(grid, factor, out=grid)
            if size < _MAGIC_LIMIT:
                np.add(grid, _MAGIC, out=grid)
                bits = grid.view(np.int64)
                np.subtract(bits, _MAGIC_BITS, out=bits)
                np.add(target, bits, out=target)
            else:
                np.add(target, np.rint(grid).astype(np.int64), out=target)

    def _refusal(self, name: str, uid: str, low: float, high: float, factor: float) -> BadInput:
        if not (math.isfinite(low) and math.isfinite(high)):
            return BadInput(
                f"uid {uid!r}: NaN or infinity in the delta of parameter {name!r}: its local training diverged; "
                "lower the local learning rate or --max-grad-norm"
            )
        return BadInput(
            f"uid {uid!r}: a delta of {max(-low, high):g} in parameter {name!r} is beyond the "
            f"{self._limit / factor:g} that the exact sum holds; rescale the parameter or the weights"
        )


def sum_specs(shared: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """What the sums of shared parameters look like."""
    return {name: TensorSpec("int64", spec.shape) for name, spec in shared.items()}


def total_weight(weights: Iterable[float]) -> float:
    """The sum of weights, correctly rounded in any order."""
    return math.fsum(weights)


def mean_factor(weight: float, exponent: int) -> float:
    """What an int64 sum is multiplied by to give the weighted mean delta."""
    return math.ldexp(1.0, exponent - FRACTION_BITS) / weight
