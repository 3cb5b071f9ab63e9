"""How a reader or a trainer is sent to the shards, whether it can be, and what in it cannot.

If the main script is a file, the other processes import it, and classes are sent by name, as with multiprocessing.
What was typed in, as in a notebook, is nowhere to be imported from: its classes are sent as they are now.  All of
it goes from a process to its own children on this machine.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import cloudpickle

from protos.errors import BadInput
from simulator.launch.main_script import has_file

_LEVELS = 20
_TOP = "at the top of a file"


class ByValue:
    """A piece with the classes that it needs; whoever takes it from the pipe gets the piece.

    Args:
        piece: a reader or a trainer.
    """

    def __init__(self, piece: Any) -> None:
        self._content = cloudpickle.dumps(piece)

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return pickle.loads, (self._content,)


def sendable(piece: Any) -> Any:
    """A piece as it is given to the shards."""
    return piece if has_file() else ByValue(piece)


def dumps(value: Any) -> bytes:
    """A value as bytes for another process of this machine, see above."""
    return bytes(ForkingPickler.dumps(value)) if has_file() else cloudpickle.dumps(value)


def check_sendable(what: str, piece: Any) -> None:
    """Refuses a piece of the page that the shards could not be given.

    Args:
        what: "reader", "trainer" or another piece.
        piece: it.

    Raises:
        BadInput: names the class and the attribute, and what to do.
    """
    error = _refusal(piece)
    if error is None:
        return
    path, culprit = _culprit(piece)
    kind = type(piece)
    owner = f"{what} {kind.__qualname__}"
    named = f"{owner}: its attribute {path.removeprefix('.')} ({_kind_of(culprit)})" if path else owner
    raise BadInput(f"{named} cannot be sent to the shards: {_reason(culprit, error)}")


def _refusal(value: Any) -> Exception | None:
    try:
        dumps(value)
    except Exception as error:  # noqa: BLE001 - a class may do anything here; whatever it is, it cannot be sent
        return error
    return None


def _culprit(piece: Any) -> tuple[str, Any]:
    """Path and value of the innermost thing in a piece that cannot be sent."""
    path, value = "", piece
    for _ in range(_LEVELS):
        bad = next(((name, part) for name, part in _parts(value) if _refusal(part) is not None), None)
        if bad is None:
            break
        path, value = path + bad[0], bad[1]
    return path, value


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{i}]", part) for i, part in enumerate(value)]
    if isinstance(value, type | types.FunctionType | types.ModuleType):
        return []
    return [(f".{name}", part) for name, part in getattr(value, "__dict__", {}).items()]


def _kind_of(value: Any) -> str:
    if isinstance(value, types.FunctionType):
        return "a lambda" if value.__name__ == "<lambda>" else f"function {value.__name__}"
    if isinstance(value, type):
        return f"class {value.__name__}"
    return f"of type {type(value).__qualname__}"


def _reason(culprit: Any, error: Exception) -> str:
    """Why it cannot be sent, and what to do."""
    if isinstance(culprit, types.FunctionType):
        return f"give it a function that is defined with def {_TOP}, or write it as a method"
    kind = culprit if isinstance(culprit, type) else type(culprit)
    if "<locals>" in kind.__qualname__:
        return f"class {kind.__name__} is defined inside of a function; define it {_TOP}"
    return f"{' '.join(str(error).split())}; make it in the method that uses it"
