"""Annotations of arguments, held to: what `lr: float` allows, and what becomes of the 1 that was given for it."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "True or False", type(None): "None", None: "None",
    tuple: "a list", list: "a list", Sequence: "a list",
}  # fmt: skip


class Unfit(ValueError):
    """A value that an annotation does not allow; the message is what it allows."""


def annotation_of(kind: type, parameter: inspect.Parameter) -> Any:
    """What a parameter of a class must be; `Any` where it is not said or cannot be known at run time.

    Args:
        kind: the class; annotations that are text are looked up in its module, and in those of its bases.
        parameter: of its `__init__`, or of a method that makes one.
    """
    said = parameter.annotation
    if said is inspect.Parameter.empty:
        return Any
    if not isinstance(said, str):
        return said
    for owner in kind.__mro__:
        module = sys.modules.get(owner.__module__)
        if module is None:
            continue
        holder = types.SimpleNamespace(__annotations__={"it": said})
        try:
            return typing.get_type_hints(holder, vars(module))["it"]
        except (NameError, AttributeError, SyntaxError, TypeError):
            continue  # imported for the type checker alone, or known to a base's module only
    return Any


def fitted(value: Any, hint: Any) -> Any:
    """A plain value as an annotation wants it: 1 as 1.0, a list as a tuple, text as a path.

    Raises:
        Unfit: the annotation does not allow it.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return fitted(value, inner[0])
    if origin in (typing.Union, types.UnionType):
        return _of_union(value, hint, inner)
    if origin is typing.Literal:
        if any(type(value) is type(each) and value == each for each in inner):
            return value
        raise Unfit(_words(hint))
    plain = origin or hint
    if plain in (tuple, list, Sequence):
        return _list(value, hint, plain, inner)
    if plain is float and type(value) is int:
        return float(value)
    if inspect.isclass(plain) and issubclass(plain, PurePath):
        if not isinstance(value, str | PurePath):
            raise Unfit(_words(hint))
        return plain(value)
    kind = type(None) if plain is None else plain
    if kind in _WORDS and type(value) is not kind:
        raise Unfit(_words(hint))
    return value


def _of_union(value: Any, hint: Any, inner: tuple[Any, ...]) -> Any:
    # What fits as it is goes first: 3 stays 3 for `float | int`.
    if type(value) in inner:
        return value
    for each in inner:
        try:
            return fitted(value, each)
        except Unfit:
            continue
    raise Unfit(_words(hint))


def _list(value: Any, hint: Any, plain: Any, inner: tuple[Any, ...]) -> Any:
    """A list whose parts fit; one text stands for a list of one."""
    if type(value) is str and (not inner or inner[0] is str):
        value = [value]
    if not isinstance(value, list | tuple):
        raise Unfit(_words(hint))
    kinds = [inner[0] if inner else Any] * len(value)
    if plain is tuple and inner and Ellipsis not in inner:
        if len(value) != len(inner):
            raise Unfit(f"a list of {len(inner)}")
        kinds = list(inner)
    try:
        parts = [fitted(each, kind) for each, kind in zip(value, kinds, strict=True)]
    except Unfit as error:
        raise Unfit(_words(hint)) from error
    return parts if plain is list else tuple(parts)


def _words(hint: Any) -> str:
    """What an annotation allows, for a person."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if origin is typing.Literal:
        return " or ".join(map(repr, inner))
    plain = origin or hint
    if plain in (tuple, list, Sequence) and inner:
        each = " and ".join(_words(kind) for kind in inner if kind is not Ellipsis)
        several = plain is tuple and Ellipsis not in inner
        return f"a list of {each}" if several else f"a list, each {each}"
    if inspect.isclass(plain) and issubclass(plain, PurePath):
        return "a path"
    return _WORDS.get(plain, str(getattr(plain, "__name__", plain)))
