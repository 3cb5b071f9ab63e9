"""Frozen parameters: the same for all users and in all rounds, so they are made everywhere and compared, not sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from protos.codec import Array, Tensors, TensorSpec
from protos.errors import BadInput


def digest_of(arrays: Mapping[str, Array]) -> str:
    """A digest of names, shapes, dtypes and bits; "" of nothing."""
    if not arrays:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} {TensorSpec.of(value)}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def split_frozen(params: Tensors, names: Iterable[str]) -> tuple[Tensors, Tensors]:
    """What is shared of a model's parameters, and what is frozen.

    Args:
        params: both.
        names: of the frozen ones.

    Raises:
        BadInput: one of them is missing.
    """
    frozen: Tensors = {}
    for name in names:
        if name not in params:
            raise BadInput(f"parameter {name!r} is frozen, but its value has not come")
        frozen[name] = params[name]
    return {name: value for name, value in params.items() if name not in frozen}, frozen
