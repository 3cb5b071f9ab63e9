"""Random streams: each derives from the seed and what it is for, never from where it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def stream_key(seed: int, *parts: str | int) -> int:
    """A 128-bit key for (seed, *parts), the same on every machine and Python.

    Args:
        seed: the run's seed.
        parts: what the stream is for, such as ("train", date, round, uid).
    """
    text = "\x00".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def stream(seed: int, *parts: str | int) -> np.random.Generator:
    """A generator of its own for (seed, *parts); see `stream_key`."""
    return stream_of(stream_key(seed, *parts))


def stream_of(key: int) -> np.random.Generator:
    """The generator of a `stream_key`."""
    return np.random.Generator(np.random.PCG64(key))


def uid_hash(uid: str) -> int:
    """A 64-bit hash of a uid, the same on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=8).digest(), "little")


def owner_of(uid: str, ranks: Sequence[int]) -> int:
    """The rank of the simulator, of all of them in order, that keeps a user."""
    return ranks[uid_hash(uid) % len(ranks)]
