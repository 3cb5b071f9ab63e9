"""Partitioners by label: Dirichlet, so many classes a user, and shards of a set that is sorted by label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from protos.errors import BadInput
from reader.partition.partitioner import (
    Partitioner,
    check_at_least,
    dealt_by_counts,
    register_partitioner,
    rows_by_label,
    wanted,
)
from reader.partition.plain_set import Int64, PlainSet

# A draw costs some tens of microseconds; a floor that is not met in so many is out of reach.
_DRAWS = 10_000


@register_partitioner("dirichlet")
@dataclass(frozen=True)
class Dirichlet(Partitioner):
    """Each label is dealt in proportions from a Dirichlet distribution (Yurochkin et al. 2019; Li et al. 2022).

    For each label k: p_k ~ Dir(alpha) over the users, who get floor(cumsum(p_k) n_k).  All of it is drawn anew until
    every user has `min_partition_size` examples.

    Args:
        alpha: the smaller, the fewer labels a user has; a list has one number a user.
        min_partition_size: no user has fewer examples.
        self_balancing: users with more than an even share get nothing of the labels to come, as in NIID-Bench.
    """

    alpha: float | tuple[float, ...]
    min_partition_size: int = 10
    self_balancing: bool = False

    def __post_init__(self) -> None:
        for alpha in self.alpha if isinstance(self.alpha, tuple) else (self.alpha,):
            check_at_least("alpha", alpha, 0, above=True)
        check_at_least("min_partition_size", self.min_partition_size, 1)

    def deal(self, examples: PlainSet, users: int | None, rng: np.random.Generator) -> list[Int64]:
        """See `Partitioner.deal`."""
        number = wanted(users, examples)
        alphas = np.asarray(self.alpha if isinstance(self.alpha, tuple) else (self.alpha,) * number)
        if len(alphas) != number:
            raise BadInput(f"alpha is a list of {len(alphas)}; there are {number} users")
        if self.min_partition_size * number > len(examples):
            raise BadInput(
                f"min_partition_size is {self.min_partition_size}; {number} users cannot have so many "
                f"of {len(examples)} examples"
            )
        labels = rows_by_label(examples, rng)
        sizes = [len(rows) for _, rows in labels]
        most = 0
        for _ in range(_DRAWS):
            counts = self._draw(sizes, alphas, rng)
            least = int(counts.sum(axis=0).min())
            if least >= self.min_partition_size:
                break
            most = max(most, least)
        else:
            raise BadInput(
                f"in {_DRAWS:,} draws the smallest of {number} users had {most} examples at most, "
                f"not min_partition_size={self.min_partition_size}; take a larger alpha, fewer users or a smaller floor"
            )
        cut = [dealt_by_counts(rows, row) for (_, rows), row in zip(labels, counts, strict=True)]
        return [np.concatenate([pieces[user] for pieces in cut]) for user in range(number)]

    def _draw(self, sizes: list[int], alphas: npt.NDArray[np.float64], rng: np.random.Generator) -> Int64:
        """How many of each label each user gets, (labels, users)."""
        counts = np.zeros((len(sizes), len(alphas)), np.int64)
        even = sum(sizes) / len(alphas)
        for label, size in enumerate(sizes):
            share = rng.dirichlet(alphas)
            if self.self_balancing:
                share = np.where(counts.sum(axis=0) > even, 0.0, share)
                total = share.sum()
                # All who may still get something drew a share of nothing: an even one.
                share = share / total if total > 0 else np.full(len(alphas), 1 / len(alphas))
            ends = np.cumsum(share)
            # So that the last who draws anything ends at 1 exactly, and nobody after it gets what rounding leaves.
            ends = (ends / ends[-1] * size).astype(np.int64)
            counts[label] = np.diff(ends, prepend=0)
        return counts


@register_partitioner("pathological")
@dataclass(frozen=True)
class Pathological(Partitioner):
    """Each user has examples of so many labels (#C = k of Li et al. 2022); a label's are shared evenly by its users.

    "first-deterministic" is NIID-Bench's way: user i has label i mod K, the others are drawn.

    Args:
        num_classes_per_partition: labels of a user.
        class_assignment_mode: "random"; "first-deterministic"; or "deterministic", labels i, i + 1, ... of user i.
    """

    num_classes_per_partition: int
    class_assignment_mode: Literal["random", "deterministic", "first-deterministic"] = "random"

    def __post_init__(self) -> None:
        check_at_least("num_classes_per_partition", self.num_classes_per_partition, 1)

    def deal(self, examples: PlainSet, users: int | None, rng: np.random.Generator) -> list[Int64]:
        """See `Partitioner.deal`.  A label that nobody was given is left out."""
        number, labels = wanted(users, examples), rows_by_label(examples, rng)
        if self.num_classes_per_partition > len(labels):
            raise BadInput(
                f"num_classes_per_partition is {self.num_classes_per_partition}; {examples.where} has "
                f"{len(labels)} labels"
            )
        has = np.zeros((number, len(labels)), bool)
        for user in range(number):
            has[user, self._labels_of(user, len(labels), rng)] = True
        parts: list[list[Int64]] = [[] for _ in range(number)]
        for place, (label, rows) in enumerate(labels):
            owners = np.flatnonzero(has[:, place])
            if len(owners) > len(rows):
                raise BadInput(
                    f"{len(owners)} users are to have examples of label {label}, "
                    f"of which there are {len(rows)}: take fewer users or labels a user"
                )
            for owner, piece in zip(owners, np.array_split(rows, len(owners)) if len(owners) else [], strict=True):
                parts[owner].append(piece)
        return [np.concatenate(pieces) for pieces in parts]

    def _labels_of(self, user: int, labels: int, rng: np.random.Generator) -> Int64:
        own = self.num_classes_per_partition
        if self.class_assignment_mode == "deterministic":
            return (user + np.arange(own)) % labels
        if self.class_assignment_mode == "random":
            return rng.choice(labels, own, replace=False)
        first = user % labels
        others = np.delete(np.arange(labels), first)
        return np.append(rng.choice(others, own - 1, replace=False), first)


@register_partitioner("shard")
@dataclass(frozen=True)
class Shard(Partitioner):
    """The set is sorted by label and cut in shards of one size, of which each user gets some (McMahan et al. 2017).

    Args:
        num_shards_per_partition: shards of a user; None: as many as there are for each, the first users one more.
        shard_size: examples of a shard; None: all examples by all shards, rounded down.
        keep_incomplete_shard: whether the rest, smaller than a shard, is one too.
    """

    num_shards_per_partition: int | None = None
    shard_size: int | None = None
    keep_incomplete_shard: bool = False

    def __post_init__(self) -> None:
        if self.num_shards_per_partition is None and self.shard_size is None:
            raise BadInput("num_shards_per_partition, shard_size or both must be given")
        for name in ("num_shards_per_partition", "shard_size"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)

    def deal(self, examples: PlainSet, users: int | None, rng: np.random.Generator) -> list[Int64]:
        """See `Partitioner.deal`.  What is in no shard that somebody gets is left out."""
        number, n, each = wanted(users, examples), len(examples), self.num_shards_per_partition
        size = self.shard_size or n // (number * (each or 1))
        both = each is not None and self.shard_size is not None
        shards = math.ceil(n / size) if size and self.keep_incomplete_shard and not both else n // max(size, 1)
        needed = number * (each or 1)
        if not size or shards < needed:
            raise BadInput(
                f"{n} examples are {shards} shards of {size}; {number} users need {needed}: take a smaller shard_size"
            )
        own = np.full(number, each) if each else shards // number + (np.arange(number) < shards % number)
        dealt = dealt_by_counts(rng.permutation(shards)[: int(own.sum())], own)
        in_order = np.argsort(examples.y, kind="stable")
        return [np.concatenate([in_order[shard * size : (shard + 1) * size] for shard in mine]) for mine in dealt]
