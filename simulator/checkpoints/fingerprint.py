"""A digest of what an object is made of: the same in every process for equal objects, another for different ones.

An object's state is what pickle would take of it.  Its class counts by name alone: who
mends a mistake in a reader may go on with the run.  A function counts by its code.
"""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import hashlib
import inspect
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np

# Values that are what their text is.
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.CodeType, np.ufunc)
# Deeper than this, only the class counts: nobody writes such settings.
_DEEPEST = 100
_NEVER = 1 << 30
# Of compiled code, all but names of files and numbers of lines.
_CODE = (
    "co_code", "co_consts", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_flags", "co_argcount",
    "co_posonlyargcount", "co_kwonlyargcount", "co_exceptiontable",
)  # fmt: skip


def fingerprint(value: Any) -> str:
    """A digest of all that an object is."""
    return Walk().digest(value)


class Walk:
    """One look at an object and all that it holds.

    Args:
        elsewhere: classes whose objects are known otherwise, and count by their class.

    Attributes:
        where: what is looked at, for `vague`.
        vague: where something is known by its class alone, such as a lock.
    """

    def __init__(self, elsewhere: tuple[type, ...] = ()) -> None:
        self.where = ""
        self.vague: list[str] = []
        # Objects on the way to where the walk is, with their depth; and digests of those that are done.  The
        # objects are kept too: another one must not get the number of one that is gone.
        self._above: dict[int, int] = {}
        self._done: dict[int, tuple[Any, str]] = {}
        # The least depth of an object above that was met again: the digest of what lies between is not kept.
        self._lowest = _NEVER
        self._ways: tuple[tuple[Any, Callable[[Any], Iterable[str]]], ...] = (
            (elsewhere, lambda value: []),
            (Enum, lambda value: [value.name]),
            (PurePath, lambda value: [str(value)]),
            (type, lambda value: [value.__qualname__]),
            (types.ModuleType, lambda value: [value.__name__]),
            (types.FunctionType, self._function),
            (types.MethodType, lambda value: [value.__name__, self.digest(value.__self__)]),
            (types.BuiltinFunctionType, self._builtin),
            (types.CodeType, lambda value: [self.digest(getattr(value, name, None)) for name in _CODE]),
            (types.CellType, self._cell),
            (types.MappingProxyType, lambda value: [self.digest(dict(value))]),
            (np.ufunc, lambda value: [value.__name__]),
            (np.dtype, lambda value: [str(value.descr)]),
            ((np.ndarray, np.generic), self._array),
            (np.random.Generator, lambda value: [self.digest(value.bit_generator)]),
            (np.random.BitGenerator, self._bit_generator),
            (np.random.RandomState, lambda value: [self.digest(value.get_state(legacy=False))]),
            (np.random.SeedSequence, lambda value: [self.digest(value.state)]),
            (OrderedDict, lambda value: [self.digest(pair) for pair in value.items()]),
            ((set, frozenset), self._set),
        )

    def digest(self, value: Any) -> str:
        """16 letters that stand for a value."""
        kind = type(value)
        if kind in PLAIN:
            # A number of thousands of digits has no `repr`.
            return _hash(kind.__name__, hex(value) if kind is int else repr(value))
        if id(value) in self._done:
            return self._done[id(value)][1]
        depth = len(self._above)
        if id(value) in self._above:
            # What holds itself: by how far above it stands.
            self._lowest = min(self._lowest, self._above[id(value)])
            return _hash("above", str(depth - self._above[id(value)]))
        if depth >= _DEEPEST:
            self.vague.append(self.where)
            return _hash("deep", kind.__qualname__)
        outer, self._lowest = self._lowest, _NEVER
        self._above[id(value)] = depth
        made = self._look(value)
        del self._above[id(value)]
        if self._lowest >= depth:
            self._done[id(value)] = (value, made)
            self._lowest = outer
        else:
            self._lowest = min(outer, self._lowest)
        return made

    def state(self, value: Any) -> tuple[dict[str, Any], str] | None:
        """An object's attributes, and a digest of what else makes it: arguments, items; "" if there is nothing.

        Returns:
            None if the object does not tell.
        """
        told = _reduced(value)
        if told is None or isinstance(told, str):
            return None if told is None else ({}, _hash("global", told))
        maker, args, state, items, pairs = (*told, None, None, None)[:5]
        args = tuple(each for each in args if each is not type(value))
        name = getattr(maker, "__qualname__", "")
        by = [] if maker is type(value) or name == "__newobj__" else [name]
        attributes, other = _attributes(value, state)
        rest = [by, args, other, list(items or ()), sorted(self.digest(pair) for pair in pairs or ())]
        return attributes, "" if rest == [[], (), None, [], []] else self.digest(rest)

    # -- inside ------------------------------------------------------------------

    def _look(self, value: Any) -> str:
        kind = type(value)
        if kind in (list, tuple):
            text = _plain_text(value)
            if text is not None:
                return _hash(f"plain {kind.__name__}", text)
            return _hash(kind.__name__, *map(self.digest, value))
        if kind is dict:
            return _hash("dict", *sorted(_hash(self.digest(key), self.digest(each)) for key, each in value.items()))
        for kinds, look in self._ways:
            if isinstance(value, kinds):
                return _hash(kind.__qualname__, *look(value))
        state = self.state(value)
        if state is None:
            self.vague.append(self.where)
            return _hash("vague", kind.__qualname__)
        return _hash("object", kind.__qualname__, self.digest(state[0]), state[1])

    def _set(self, value: Any) -> list[str]:
        return [*sorted(map(self.digest, value)), self.digest(getattr(value, "__dict__", None))]

    def _array(self, value: Any) -> list[str]:
        if value.dtype.hasobject:
            content = self.digest(value.tolist())
        elif value.dtype.names:
            # Between fields there may be bytes that nobody has set.
            content = self.digest([np.asarray(value[name]) for name in value.dtype.names])
        else:
            raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            content = hashlib.blake2b(raw.data, digest_size=8).hexdigest()
        return [str(value.dtype.descr), str(value.shape), content, self.digest(getattr(value, "__dict__", None))]

    def _bit_generator(self, value: Any) -> list[str]:
        # What children of it will be made from.
        seeds = value.seed_seq if isinstance(value.seed_seq, np.random.SeedSequence) else None
        return [self.digest(value.state), self.digest(seeds)]

    def _cell(self, value: Any) -> list[str]:
        try:
            return [self.digest(value.cell_contents)]
        except ValueError:
            return []  # a variable that has no value yet

    def _function(self, value: Any) -> list[str]:
        own = {name: each for name, each in vars(value).items() if name != "__wrapped__"}
        held = (value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__, own)
        return [self.digest(each) for each in held]

    def _builtin(self, value: Any) -> list[str]:
        owner = value.__self__
        of_module = owner is None or isinstance(owner, types.ModuleType)
        return [value.__qualname__, "" if of_module else self.digest(owner)]


def _hash(*parts: str) -> str:
    made = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        made.update(len(raw).to_bytes(8, "little"))
        made.update(raw)
    return made.hexdigest()


def _plain_text(values: list[Any] | tuple[Any, ...]) -> str | None:
    """Plain values as one text, which takes a fraction of the time: plans are long."""
    if not all(type(each) in PLAIN for each in values):
        return None
    try:
        return repr(values)
    except ValueError:  # a number of thousands of digits
        return None


def _reduced(value: Any) -> Any:
    """What pickle would take of an object; None if it gives nothing."""
    try:
        own = copyreg.dispatch_table.get(type(value))
        told = value.__reduce_ex__(4) if own is None else own(value)
    except Exception:  # noqa: BLE001 - a class may do anything here; what does not tell is known by its class
        return None
    return told


def _attributes(value: Any, state: Any) -> tuple[dict[str, Any], Any]:
    """Cuts a state in named attributes that count, and the rest."""
    slots: dict[str, Any] = {}
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        state, slots = state
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    if fields and isinstance(state, list):
        # A frozen dataclass with slots tells its values alone.
        state = dict(zip((f.name for f in fields), state, strict=True))
    if state is not None and not (isinstance(state, dict) and all(isinstance(name, str) for name in state)):
        return slots, state
    unequal = {f.name for f in fields if not f.compare}
    whole = {**(state or {}), **slots}
    kept = {name: each for name, each in whole.items() if name not in unequal and not _is_cached(value, name)}
    return kept, None


def _is_cached(value: Any, name: str) -> bool:
    """Whether an attribute is what a property has remembered."""
    return isinstance(inspect.getattr_static(type(value), name, None), functools.cached_property)
