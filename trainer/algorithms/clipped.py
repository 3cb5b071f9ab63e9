"""Gradients cut to a norm, as a trainer's are."""

import math
from collections.abc import Mapping

import numpy as np

from scheduler import Array


def clipped(gradients: Mapping[str, Array], norm: float | None) -> dict[str, Array]:
    """Gradients times min(1, norm / |g|), with |g| over all of them, in float64.

    Args:
        gradients: by name.
        norm: None for no bound.
    """
    square = sum(float(np.vdot(flat, flat)) for flat in (g.reshape(-1).astype(np.float64) for g in gradients.values()))
    length = math.sqrt(square)
    # Not `length > norm`: NaN must reach the parameters, where it is found and named.
    factor = 1.0 if norm is None or length <= norm else norm / length
    return {name: g * g.dtype.type(factor) for name, g in gradients.items()}
