"""Few labels a user and very unequal amounts of them: the MNIST of FedProx, LEAF-style FedML and FLUTE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protos.errors import BadInput
from reader.partition.partitioner import Partitioner, check_at_least, register_partitioner, rows_by_label, wanted
from reader.partition.plain_set import Int64, PlainSet


@register_partitioner("distribution")
@dataclass(frozen=True)
class Distribution(Partitioner):
    """User i has labels i, i + 1, ... mod K, in log-normal amounts (Li et al. 2020, FedProx).

    Of each label, each of its users gets `preassigned_num_samples_per_label` examples, and of what is left a part
    in proportion to a number from LogNormal(0, sigma), rounded down.

    Args:
        num_unique_labels_per_partition: labels of a user.
        preassigned_num_samples_per_label: the least that a user has of each of its labels.
        sigma: deviation of an amount's logarithm.
        rescale: whether what rounding leaves is dealt out too, at random, as flwr-datasets does; else it is left out,
            as FedProx's script does.
    """

    num_unique_labels_per_partition: int = 2
    preassigned_num_samples_per_label: int = 5
    sigma: float = 2.0
    rescale: bool = True

    def __post_init__(self) -> None:
        check_at_least("num_unique_labels_per_partition", self.num_unique_labels_per_partition, 1)
        check_at_least("preassigned_num_samples_per_label", self.preassigned_num_samples_per_label, 1)
        check_at_least("sigma", self.sigma, 0)

    def deal(self, examples: PlainSet, users: int | None, rng: np.random.Generator) -> list[Int64]:
        """See `Partitioner.deal`."""
        number, labels, own = (
            wanted(users, examples),
            rows_by_label(examples, rng),
            self.num_unique_labels_per_partition,
        )
        if own > len(labels) or number % len(labels):
            raise BadInput(
                f"num_unique_labels_per_partition is {own} of {len(labels)} labels, for {number} users: there must be "
                f"as many labels, and the number of users a multiple of {len(labels)}"
            )
        parts: list[list[Int64]] = [[] for _ in range(number)]
        for place, (label, rows) in enumerate(labels):
            owners = np.flatnonzero((place - np.arange(number)) % len(labels) < own)
            left = len(rows) - self.preassigned_num_samples_per_label * len(owners)
            if left < 0:
                raise BadInput(
                    f"preassigned_num_samples_per_label is {self.preassigned_num_samples_per_label} for each of "
                    f"{len(owners)} users, but there are {len(rows)} examples of label {label}"
                )
            for owner, piece in zip(owners, self._cut(rows, left, len(owners), rng), strict=True):
                parts[owner].append(piece)
        return [np.concatenate(pieces) for pieces in parts]

    def _cut(self, rows: Int64, left: int, owners: int, rng: np.random.Generator) -> list[Int64]:
        logs = self.sigma * rng.standard_normal(owners)
        weights = np.exp(logs - logs.max())
        counts = self.preassigned_num_samples_per_label + np.floor(left * (weights / weights.sum())).astype(np.int64)
        if self.rescale:
            counts += np.bincount(rng.integers(owners, size=len(rows) - int(counts.sum())), minlength=owners)
        return np.split(rows, np.cumsum(counts))[:-1]
