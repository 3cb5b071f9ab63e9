"""What a reader yields, held to its contract and joined over files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from protos.codec import DTYPES, Tensors
from protos.errors import BadInput
from scheduler.state.bounds import check_uid
from simulator.contracts import Examples

PAIR = "(uid, {name: array})"


def check_user(reader: str, item: Any) -> tuple[str, Any]:
    """What a reader yields for one user, if it is a uid and examples.

    Args:
        reader: name of its class.
        item: it.

    Raises:
        BadInput: no such pair, or a uid that cannot be one.
        TooLarge: a uid that is empty or too long.
    """
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise BadInput(f"{reader}.read yields {_short(item)}; it must yield {PAIR} for each user")
    uid, examples = item
    if not isinstance(uid, str):
        text = "uid.decode()" if isinstance(uid, bytes) else "str(uid)"
        raise BadInput(
            f"uid {_short(uid)} is of type {type(uid).__name__}; a uid is a str, so let {reader}.read yield {text}"
        )
    try:
        uid.encode()
    except UnicodeEncodeError:
        raise BadInput(
            f"uid {_short(uid)} is no valid text: it has half of a surrogate pair; let {reader}.read decode "
            'it with errors="replace", or yield its repr'
        ) from None
    if "\0" in uid:
        raise BadInput(f"uid {_short(uid)} has a NUL character; let {reader}.read leave it out")
    return str(check_uid(uid)), examples


def users_of(reader: str, found: Any) -> Iterator[Any]:
    """What a reader's `read` gives, one after another.

    Raises:
        BadInput: nothing that can be gone through.
    """
    if isinstance(found, Mapping):
        raise BadInput(f"{reader}.read returns a {type(found).__name__}; it must yield {PAIR} for each user")
    try:
        return iter(found)
    except TypeError:
        raise BadInput(f"{reader}.read returns {_short(found)}; it must yield {PAIR} for each user") from None


def _short(value: Any) -> str:
    """A value for an error, in one line."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}{list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]} ..."


def check_examples(uid: str, examples: Mapping[str, Any]) -> int:
    """The number of examples of one user.

    Raises:
        BadInput: no arrays, no examples, arrays of different lengths or of a dtype that cannot be stored.
    """
    if not isinstance(examples, Mapping):
        raise BadInput(f"uid {uid!r}: its examples are {_short(examples)}; they must be a dict of name -> array")
    if not examples:
        raise BadInput(f"uid {uid!r}: no arrays")
    counts: dict[str, int] = {}
    for name, rows in examples.items():
        if not isinstance(name, str):
            raise BadInput(f"uid {uid!r}: an array's name is {_short(name)}; it must be a str")
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
