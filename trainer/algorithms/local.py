"""Local training alone: nothing is shared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from scheduler import Algorithm, Layers, Local, register_algorithm


@register_algorithm("local")
@dataclass(frozen=True)
class LocalOnly(Algorithm):
    """Each user trains a model of its own and shares nothing: what federation is to be better than.

    All parameters and buffers are private.  A user that has never trained does so for its test, from the model's
    initial values for it.
    """

    shares_nothing: ClassVar[bool] = True

    def private(self, layers: Layers) -> Sequence[str]:
        """All."""
        return tuple(layers.specs)

    def personalise(self, local: Local) -> None:
        """New users train."""
        if not local.known:
            local.train()
