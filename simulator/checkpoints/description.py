"""An object in words: its class and attributes, so that what has changed in it can be named."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np

from simulator.checkpoints.fingerprint import FUNCTIONS, PLAIN, Walk

# Of what is told in words: letters of one value, attributes of one object, objects within objects, and all values.
_LETTERS, _ATTRIBUTES, _LEVELS, _MOST = 60, 50, 3, 200
_CONTAINERS: dict[type[Any], str] = {list: "[]", tuple: "()", set: "{}", dict: "{}"}


@dataclass(frozen=True)
class Description:
    """An object in words.

    Attributes:
        texts: "" -> its class, path of an attribute -> its value; what takes more than a line is told by a digest.
        vague: paths of what nothing is known of but its class, such as a lock.
    """

    texts: Mapping[str, str]
    vague: tuple[str, ...]


def describe(value: Any, leave_out: Collection[str] = (), elsewhere: tuple[type, ...] = ()) -> Description:
    """An object's class and attributes; equal objects have equal texts in every process, different ones others.

    Args:
        value: the object.
        leave_out: names of its attributes that do not count.
        elsewhere: classes whose objects are known otherwise, and count by their class.
    """
    teller = _Teller(Walk(elsewhere), elsewhere)
    teller.tell(value, "", leave_out)
    return Description(teller.texts, tuple(dict.fromkeys(teller.walk.vague)))


class _Teller:
    """Puts an object and what it holds into `texts`."""

    def __init__(self, walk: Walk, elsewhere: tuple[type, ...]) -> None:
        self.walk, self.texts = walk, dict[str, str]()
        self._elsewhere = elsewhere
        self._above: list[Any] = []

    def tell(self, value: Any, path: str, leave_out: Collection[str] = ()) -> None:
        self.walk.where = path
        enough = len(self._above) > _LEVELS or len(self.texts) > _MOST
        parts = None if enough else self._parts(value, path, leave_out)
        if parts is None:
            self.texts[path] = _words(value, self.walk)
            return
        self.texts[path] = type(value).__qualname__
        self._above.append(value)
        for where, part in sorted(parts.items()):
            self.tell(part, where)
        self._above.pop()

    def _parts(self, value: Any, path: str, leave_out: Collection[str]) -> dict[str, Any] | None:
        """What a value is told by, by path; None if it is told as one."""
        if any(value is each for each in self._above) or isinstance(value, self._elsewhere):
            return None
        kind = type(value)
        if kind in (list, tuple, dict):
            if len(value) > _ATTRIBUTES or _written(value) is not None:
                return None
            parts = value.items() if kind is dict else enumerate(value)
            named = {f"{path}[{_written(key)}]": part for key, part in parts if _written(key) is not None}
            return named if len(named) == len(value) else None
        if _is_one(value):
            return None
        state = self.walk.state(value)
        if state is None or state[1] or len(state[0]) > _ATTRIBUTES:
            return None
        return {f"{path}.{name}" if path else name: part for name, part in state[0].items() if name not in leave_out}


def _words(value: Any, walk: Walk) -> str:
    """A value as one would write it if that is short, else what it is and a digest."""
    text = _written(value)
    if text is not None and len(text) <= _LETTERS:
        return text
    if isinstance(value, type):
        return value.__qualname__
    name = type(value).__qualname__
    if isinstance(value, FUNCTIONS):
        name = getattr(value, "__qualname__", name)
    elif isinstance(value, np.ndarray):
        name = f"{value.dtype}{list(value.shape)}"
    elif isinstance(value, str | bytes | Mapping | Sequence | set | frozenset):
        name = f"{name} of {len(value)}"
    return f"{name} {walk.digest(value)}"


def _written(value: Any) -> str | None:
    """A plain value, or a short container of such, as one writes it; None of all else."""
    kind = type(value)
    if kind in PLAIN:
        long = len(value) > _LETTERS if kind in (str, bytes) else kind is int and value.bit_length() > 4 * _LETTERS
        return None if long else repr(value)
    if isinstance(value, Enum):
        return f"{kind.__qualname__}.{value.name}"
    if isinstance(value, PurePath):
        return f"Path({str(value)!r})"
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return f"{value.dtype}({value.item()!r})"
    if kind not in _CONTAINERS or len(value) > _LETTERS:
        return None
    parts = [_pair(*each) if kind is dict else _plain(each) for each in (value.items() if kind is dict else value)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    inner = ", ".join(known if kind in (list, tuple) else sorted(known))
    return f"{_CONTAINERS[kind][0]}{inner}{_CONTAINERS[kind][1]}" if value or kind is not set else "set()"


def _plain(value: Any) -> str | None:
    """As `_written`, of what holds nothing else: a list may hold itself."""
    return None if type(value) in _CONTAINERS else _written(value)


def _pair(key: Any, value: Any) -> str | None:
    texts = _plain(key), _plain(value)
    return None if None in texts else f"{texts[0]}: {texts[1]}"


def _is_one(value: Any) -> bool:
    """Whether a value has no attributes of its own to be told by."""
    ones = (*FUNCTIONS, type, types.ModuleType, types.MappingProxyType, Enum, PurePath, set, frozenset, dict)
    numpy = (np.ndarray, np.generic, np.dtype)
    random = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, np.random.SeedSequence)
    return type(value) in (*PLAIN, list, tuple) or isinstance(value, (*ones, *numpy, *random))
