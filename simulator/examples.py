"""What a reader yields, held to its contract and joined over files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.codec import DTYPES, Tensors
from protos.errors import BadInput

Examples = dict[str, npt.NDArray[Any]]


def check_examples(uid: str, examples: Mapping[str, Any]) -> int:
    """The number of examples of one user.

    Raises:
        BadInput: no arrays, no examples, arrays of different lengths or of a dtype that cannot be stored.
    """
    if not examples:
        raise BadInput(f"uid {uid!r}: no arrays")
    counts: dict[str, int] = {}
    for name, rows in examples.items():
        if not isinstance(rows, np.ndarray) or rows.ndim == 0:
            raise BadInput(f"uid {uid!r}: {name!r} is not an array with one row an example, but {type(rows).__name__}")
        if rows.dtype.name not in DTYPES:
            raise BadInput(f"uid {uid!r}: {name!r} has dtype {rows.dtype}; use one of {sorted(DTYPES)}")
        counts[name] = len(rows)
    if len(set(counts.values())) != 1:
        raise BadInput(f"uid {uid!r}: arrays do not match, rows are {counts}")
    count = next(iter(counts.values()))
    if count == 0:
        raise BadInput(f"uid {uid!r} has no examples")
    return count


def join_examples(uid: str, parts: Sequence[Tensors]) -> Examples:
    """Joins one user's examples of several files.

    Raises:
        BadInput: the files give different arrays.
    """
    if len(parts) == 1:
        return parts[0]
    for part in parts:
        if set(part) != set(parts[0]):
            raise BadInput(f"uid {uid!r}: its files give different arrays, {sorted(parts[0])} and {sorted(part)}")
    try:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    except ValueError as error:
        raise BadInput(f"uid {uid!r}: its files' arrays cannot be joined: {error}") from error
