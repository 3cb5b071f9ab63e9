"""Partitioners without regard to labels: all alike, and users of unequal size."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import BadInput
from reader.partition.partitioner import Partitioner, check_at_least, dealt_by_counts, register_partitioner, wanted
from reader.partition.plain_set import Int64, PlainSet


@register_partitioner("iid")
@dataclass(frozen=True)
class Iid(Partitioner):
    """All examples in a random order, cut evenly."""

    def deal(self, examples: PlainSet, users: int | None, rng: np.random.Generator) -> list[Int64]:
        """See `Partitioner.deal`."""
        return np.array_split(rng.permutation(len(examples)), wanted(users, examples))


class _BySize(Partitioner):
    """Users have sizes; what they get is drawn from all examples alike.

    Each gets `min_partition_size` examples, and the rest is dealt in proportion to the weights.
    """

    min_partition_size: int

    def deal(self, examples: PlainSet, users: int | None, rng: np.random.Generator) -> list[Int64]:
        """See `Partitioner.deal`."""
        number, n = wanted(users, examples), len(examples)
        if self.min_partition_size * number > n:
            raise BadInput(
                f"min_partition_size is {self.min_partition_size}; {number} users cannot have so many of {n} examples"
            )
        sizes = self.min_partition_size + shared_out(n - self.min_partition_size * number, self.weights(number, rng))
        return dealt_by_counts(rng.permutation(n), sizes)

    @abstractmethod
    def weights(self, users: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """How large each user is beside the others, (users,)."""


@register_partitioner("power-law")
@dataclass(frozen=True)
class PowerLaw(_BySize):
    """Sizes from a power law: the chance of a size above s falls as s^-(exponent - 1).

    Args:
        exponent: above 1; the smaller, the more a few users have.
        min_partition_size: no user has fewer examples.
    """

    exponent: float = 2.0
    min_partition_size: int = 10

    def __post_init__(self) -> None:
        check_at_least("exponent", self.exponent, 1, above=True)
        check_at_least("min_partition_size", self.min_partition_size, 1)

    def weights(self, users: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """See `_BySize.weights`."""
        # By the logarithm: an exponent close to 1 leaves what a float64 holds.
        logs = rng.exponential(size=users) / (self.exponent - 1)
        return np.asarray(np.exp(logs - logs.max()))


@register_partitioner("log-normal")
@dataclass(frozen=True)
class LogNormal(_BySize):
    """Sizes from a log-normal distribution, as Synthetic of Li et al. 2020 has them.

    Args:
        sigma: deviation of a size's logarithm.
        min_partition_size: no user has fewer examples.
    """

    sigma: float = 1.0
    min_partition_size: int = 10

    def __post_init__(self) -> None:
        check_at_least("sigma", self.sigma, 0)
        check_at_least("min_partition_size", self.min_partition_size, 1)

    def weights(self, users: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """See `_BySize.weights`."""
        logs = self.sigma * rng.standard_normal(users)
        return np.asarray(np.exp(logs - logs.max()))


@register_partitioner("quantity-dirichlet")
@dataclass(frozen=True)
class QuantityDirichlet(_BySize):
    """Sizes from one Dirichlet distribution over the users: quantity skew of Li et al. 2022.

    Args:
        alpha: the smaller, the more a few users have.
        min_partition_size: no user has fewer examples.
    """

    alpha: float
    min_partition_size: int = 10

    def __post_init__(self) -> None:
        check_at_least("alpha", self.alpha, 0, above=True)
        check_at_least("min_partition_size", self.min_partition_size, 1)

    def weights(self, users: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """See `_BySize.weights`."""
        return rng.dirichlet(np.full(users, self.alpha))


def shared_out(n: int, weights: npt.NDArray[np.float64]) -> Int64:
    """N things in proportion to weights, by largest remainder; of equal ones, the first."""
    exact = n * (weights / weights.sum())
    sizes: Int64 = np.floor(exact).astype(np.int64)
    order = np.argsort(sizes - exact, kind="stable")
    sizes[order[: n - int(sizes.sum())]] += 1
    return sizes
