"""Users who see the same things differently: turned, or through noise, on top of another partitioner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protos.errors import BadInput
from reader.partition.partitioner import PARTITIONERS, Partitioner, check_at_least, register_partitioner
from reader.partition.plain_set import Array, Int64, PlainSet


@register_partitioner("feature-shift")
@dataclass(frozen=True)
class FeatureShift(Partitioner):
    """Another partitioner's users, whose examples are turned (Ghosh et al. 2020) or have noise (Li et al. 2022).

    User i of N (from 0) turns its images by rotations[i mod how many], anticlockwise, and adds Gaussian noise of
    variance noise (i + 1) / N, where bytes count from 0 to 1.

    Args:
        base: the partitioner that deals the examples out, such as "dirichlet(alpha=0.5)".
        rotations: degrees; multiples of 90 move pixels, others mix four neighbours; what is from outside is 0.
        noise: variance of the last user's noise.
    """

    base: str = "iid"
    rotations: tuple[float, ...] = ()
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("noise", self.noise, 0)
        if not self.rotations and not self.noise:
            raise BadInput("neither rotations nor noise: say how users differ")
        # Made once for its checks; it says what is wrong in a line.
        if isinstance(PARTITIONERS.make(self.base), FeatureShift):
            raise BadInput("base is a feature-shift itself; give it both rotations and noise")

    def deal(self, examples: PlainSet, users: int | None, rng: np.random.Generator) -> list[Int64]:
        """See `Partitioner.deal`."""
        if self.rotations and (examples.x.ndim < 3 or examples.x.shape[-1] != examples.x.shape[-2]):
            raise BadInput(f"rotations: {examples.where} has x of shape {examples.x.shape[1:]}, no square images")
        return PARTITIONERS.make(self.base).deal(examples, users, rng)

    def uids(self, examples: PlainSet, users: int) -> list[str]:
        """See `Partitioner.uids`."""
        return PARTITIONERS.make(self.base).uids(examples, users)

    def deal_tests(self, tests: PlainSet) -> list[tuple[str, Int64]] | None:
        """See `Partitioner.deal_tests`."""
        return PARTITIONERS.make(self.base).deal_tests(tests)

    @property
    def float_examples(self) -> bool:
        """See `Partitioner.float_examples`."""
        return self.noise > 0

    def changed(self, x: Array, number: int, users: int, rng: np.random.Generator) -> Array:
        """See `Partitioner.changed`."""
        if self.rotations:
            x = turned(x, self.rotations[number % len(self.rotations)])
        if not self.noise:
            return x
        scaled = x.astype(np.float32) / 255 if x.dtype == np.uint8 else x
        deviation = np.float32(np.sqrt(self.noise * (number + 1) / users))
        noisy: Array = scaled + deviation * rng.standard_normal(x.shape, np.float32)
        return noisy


def turned(x: Array, degrees: float) -> Array:
    """Square images (..., side, side) turned anticlockwise about their middle, of the same dtype."""
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(x, int(degrees // 90) % 4, axes=(-2, -1)))
    side, angle = x.shape[-1], np.deg2rad(degrees)
    middle = (side - 1) / 2
    down, right = np.mgrid[:side, :side] - middle
    # Where each pixel comes from.
    rows = middle + down * np.cos(angle) + right * np.sin(angle)
    columns = middle + right * np.cos(angle) - down * np.sin(angle)
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)]).astype(np.float32)
    made = np.zeros(x.shape, np.float32)
    for r, c in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part = ((1 - np.abs(rows - top - r)) * (1 - np.abs(columns - left - c))).astype(np.float32)
        at_row, at_column = np.clip(top + r + 1, 0, side + 1), np.clip(left + c + 1, 0, side + 1)
        made += part * padded[..., at_row, at_column]
    return made if x.dtype.kind == "f" else np.rint(made).astype(x.dtype)
