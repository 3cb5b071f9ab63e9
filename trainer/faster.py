"""Turns with the layers that can be done faster."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

Rest = ParamSpec("Rest")
Answer = TypeVar("Answer")


class _Chooses(Protocol):
    fast_layers: bool


Chooser = TypeVar("Chooser", bound=_Chooses)


def with_fast_layers(
    turn: Callable[Concatenate[Chooser, Any, Rest], Answer],
) -> Callable[Concatenate[Chooser, Any, Rest], Answer]:
    """Has a trainer's method, which takes the model first, work with fast layers, unless the trainer is told not to."""

    @functools.wraps(turn)
    def faster(self: Chooser, model: Any, *args: Rest.args, **kwargs: Rest.kwargs) -> Answer:
        if not self.fast_layers:
            return turn(self, model, *args, **kwargs)
        from model.fast_layers import fast_layers

        with fast_layers(model):
            return turn(self, model, *args, **kwargs)

    return faster  # type: ignore[return-value]  # functools.wraps names the arguments
