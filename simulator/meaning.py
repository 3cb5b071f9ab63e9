"""What the results of a run depend on, so that it is resumed as the run it was."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from protos.errors import BadInput
from scheduler.rounds import Rules
from simulator.settings import Settings

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PIECES = {
    "sampler": "the sampler (its --plan, or set_sampler)",
    "test_sampler": "the test sampler (set_test_sampler)",
    "optimizer": "the server optimizer (set_fl_optimizer)",
}


def meaning_of(settings: Settings, rules: Rules) -> dict[str, Any]:
    """All of it that every rank knows, as plain values.

    Args:
        settings: of the run.
        rules: with the samplers and the optimizer that the application has set.
    """
    meaning: dict[str, Any] = {f"--{name.replace('_', '-')}": value for name, value in settings.meaning().items()}
    for name, what in _PIECES.items():
        piece = getattr(rules, name)
        meaning[what] = f"{type(piece).__qualname__} {_described(piece)}"
    return meaning


def _described(piece: Any) -> str:
    """A digest of what an object says of itself; plans are long."""
    # One without a description of its own is known by its class.
    text = _ADDRESS.sub("", repr(piece))
    if "{" in text:
        # The order of a set differs from process to process.
        text = "".join(sorted(text))
    return _digest(text.encode())


def with_files(meaning: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The same with the content of `--init`, where this rank sees the file."""
    if settings.init is None:
        return dict(meaning)
    try:
        return {**meaning, "the content of --init": _digest(settings.init.read_bytes())}
    except OSError:
        return {**meaning, "the content of --init": "not seen by rank 0"}


def check_meaning(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to go on as another run.

    Raises:
        BadInput: names every setting that differs.
    """
    odd = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if odd:
        each = "; ".join(f"{name} was {_shown(before.get(name))}, is {_shown(now.get(name))}" for name in odd)
        raise BadInput(f"--resume: the run cannot go on with other settings: {each}")


def differing(rank: int, mine: Mapping[str, Any], first: Mapping[str, Any]) -> str | None:
    """What a rank was told otherwise than rank 0, in one line; None if nothing."""
    odd = [name for name in {**first, **mine} if first.get(name) != mine.get(name)]
    if not odd:
        return None
    each = "; ".join(f"{name} is {_shown(mine.get(name))} here and {_shown(first.get(name))} there" for name in odd)
    return f"rank {rank} has other settings than rank 0: {each}; give all ranks the same command line and files"


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
