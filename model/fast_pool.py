"""Max pooling of 2 x 2 squares that do not overlap, first of the pairs in a row, then of two rows.

Of equal numbers the first counts, row by row, as in Paddle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Winners:
    """Where the maxima come from, 1 for yes and 0 for no: NumPy multiplies by numbers much faster than by booleans.

    Attributes:
        shape: of what was pooled.
        left: whether it is the left one of each pair in a row (B, C, H // 2 x 2, W // 2).
        top: whether it is the upper one of the two that these leave (B, C, H // 2, W // 2).
    """

    shape: tuple[int, ...]
    left: Floats
    top: Floats

    def deal(self, values: Floats, to: Floats) -> None:
        """Writes the gradient of what was pooled, given that of the maxima."""
        height, width = self.left.shape[2], 2 * self.left.shape[3]
        if self.shape[2:] != (height, width):
            to[:, :, height:] = 0
            to[..., width:] = 0
        to = to[:, :, :height, :width]
        # All in one order of memory.
        ordered, rows = np.empty_like(self.top), np.empty_like(self.left)
        ordered[...] = values
        _deal(ordered, self.top, rows[:, :, 0::2], rows[:, :, 1::2])
        _deal(rows, self.left, to[..., 0::2], to[..., 1::2])


def pooled(values: Floats, winners: list[Winners] | None) -> Floats:
    """The maxima of (B, C, H, W), whose memory may have any order.

    Args:
        values: with at least two rows and columns.
        winners: gets where the maxima come from, unless it is None.
    """
    height, width = (side - side % 2 for side in values.shape[2:])
    pairs = values[:, :, :height, :width]
    left, right = pairs[..., 0::2], pairs[..., 1::2]
    of_rows = np.maximum(left, right)
    top, bottom = of_rows[:, :, 0::2], of_rows[:, :, 1::2]
    if winners is not None:
        first = (left >= right).astype(np.float32), (top >= bottom).astype(np.float32)
        winners.append(Winners(values.shape, *first))
    return np.maximum(top, bottom)


def _deal(values: Floats, to_first: Floats, first: Floats, second: Floats) -> None:
    """Gives each value to one of two places, and 0 to the other."""
    np.multiply(values, to_first, out=first)
    np.subtract(values, first, out=second)
