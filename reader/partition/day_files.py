"""Writes what was dealt out as day folders that `reader.NpzReader` reads, and what it is beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reader.partition.dealing import Dealt, User
from reader.partition.partitioner import PARTITIONERS, Partitioner
from reader.partition.plain_set import Array, PlainSet
from scheduler.rules.streams import stream

Kind = Literal["unit", "centred", "standard"]
KINDS: tuple[Kind, ...] = ("unit", "centred", "standard")
MANIFEST = "partition.json"


@dataclass(frozen=True)
class Scale:
    """What a reader makes of the numbers of a file: (x - shift) * factor.

    Attributes:
        shift: one number, or one for each of an example.
        factor: likewise.
    """

    shift: Array
    factor: Array


def scale_of(kind: Kind, x: Array, float_examples: bool) -> Scale:
    """The scale of examples.

    Args:
        kind: "unit": bytes as 0 to 1, floats as they are; "centred": that as (v - 0.5) / 0.5; "standard": that less its
            mean over all of x, by its deviation and 0.001, number by number, as FedProx's MNIST.
        x: all examples that are dealt out to be trained on.
        float_examples: whether bytes are written as floats, 0 to 1.
    """
    one = 255.0 if x.dtype == np.uint8 else 1.0
    if kind == "unit":
        shift, factor = np.float64(0), np.float64(1)
    elif kind == "centred":
        shift, factor = np.float64(0.5), np.float64(2)
    else:
        shift = x.mean(axis=0, dtype=np.float64) / one
        factor = 1 / (x.std(axis=0, dtype=np.float64) / one + 0.001)
    written = 1.0 if float_examples else one
    return Scale(np.asarray(shift * written, np.float32), np.asarray(factor / written, np.float32))


def write_users(
    folder: Path,
    split: str,
    users: Sequence[User],
    examples: PlainSet,
    partitioner: Partitioner,
    scale: Scale,
    *,
    among: int,
    files: int,
    seed: int,
) -> None:
    """Writes the files of a split.

    Args:
        folder: of the day.
        split: "train" or "test".
        users: with their rows, which lie in this order.
        examples: that the rows are of.
        partitioner: what a user sees of its examples.
        scale: for the reader.
        among: how many users train.
        files: how many files, of about as many examples each.
        seed: of what `partitioner` adds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum([len(user.rows) for user in users])
    begins = ends - [len(user.rows) for user in users]
    of_file = begins * files // ends[-1]
    for number, place in enumerate(np.unique(of_file)):
        mine = [user for user, file in zip(users, of_file, strict=True) if file == place]
        parts = [_seen(user, split, examples, partitioner, among, seed) for user in mine]
        y = np.concatenate([examples.y[user.rows] for user in mine])
        np.savez_compressed(
            folder / f"{split}_{number:03d}.npz",
            uids=np.array([user.uid for user in mine]),
            counts=np.array([len(user.rows) for user in mine], np.int64),
            x=np.concatenate(parts),
            y=y.astype(np.min_scalar_type(int(y.max()))),
            shift=scale.shift,
            factor=scale.factor,
        )


def _seen(user: User, split: str, examples: PlainSet, partitioner: Partitioner, among: int, seed: int) -> Array:
    x = examples.x[user.rows]
    if user.number >= 0:
        return partitioner.changed(x, user.number, among, stream(seed, "partition shift", split, user.uid))
    # Nobody's in particular: as it is, in the form that the others have.
    return x.astype(np.float32) / np.float32(255) if partitioner.float_examples and x.dtype == np.uint8 else x


def manifest(dealt: Dealt, partitioner: Partitioner, *, seed: int, test_share: float | None, scale: Kind) -> str:
    """What was done, as JSON."""
    arguments = ", ".join(f"{field.name}={getattr(partitioner, field.name)!r}" for field in _fields(partitioner))
    name = next(name for name, kind in PARTITIONERS.items() if kind is type(partitioner))
    content = {
        "partitioner": f"{name}({arguments})" if arguments else name,
        "seed": seed,
        "test_share": test_share,
        "scale": scale,
        "classes": dealt.source.classes,
        "labels": list(dealt.source.train.names),
        "shape": list(dealt.source.train.x.shape[1:]),
        "train": {user.uid: len(user.rows) for user in dealt.train},
        "test": {user.uid: len(user.rows) for user in dealt.test},
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _fields(partitioner: Partitioner) -> Sequence[dataclasses.Field[Any]]:
    return dataclasses.fields(partitioner) if dataclasses.is_dataclass(partitioner) else ()
