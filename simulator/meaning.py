"""What the results of a run depend on, so that it is resumed as the run it was."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from protos.errors import BadInput, FLError
from scheduler.rounds import Rules
from simulator.settings import Settings

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PIECES = {
    "sampler": "the sampler (its --plan, or set_sampler)",
    "test_sampler": "the test sampler (set_test_sampler)",
    "optimizer": "the server optimizer (set_fl_optimizer)",
}


def meaning_of(settings: Settings, rules: Rules) -> dict[str, Any]:
    """All of it, as plain values.

    Args:
        settings: of the run.
        rules: with the samplers and the optimizer that the application has set.

    Raises:
        FLError: the file of `--init` cannot be read.
    """
    meaning: dict[str, Any] = {f"--{name.replace('_', '-')}": value for name, value in settings.meaning().items()}
    for name, what in _PIECES.items():
        piece = getattr(rules, name)
        # Plans are long; an object without a description of its own is known by its class.
        meaning[what] = f"{type(piece).__qualname__} {_digest(_ADDRESS.sub('', repr(piece)).encode())}"
    if settings.init is not None:
        try:
            meaning["the content of --init"] = _digest(settings.init.read_bytes())
        except OSError as error:
            raise FLError(f"--init {settings.init} cannot be read: {error.strerror}") from error
    return meaning


def check_meaning(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to go on as another run.

    Raises:
        BadInput: names every setting that differs.
    """
    odd = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if odd:
        each = "; ".join(f"{name} was {_shown(before.get(name))}, is {_shown(now.get(name))}" for name in odd)
        raise BadInput(f"--resume: the run cannot go on with other settings: {each}")


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
