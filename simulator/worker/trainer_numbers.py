"""The numbers of local training that an algorithm may ask for."""

from __future__ import annotations

from typing import Any

from protos.errors import BadInput
from simulator.contracts import Trainer


class TrainerNumbers:
    """See `scheduler.rules.local.Local`, of which this is a part.

    Args:
        trainer: has them as attributes.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    @property
    def lr(self) -> float:
        """Local learning rate."""
        return float(self._number("lr"))

    @property
    def epochs(self) -> int:
        """Local epochs."""
        return int(self._number("epochs"))

    @property
    def batch_size(self) -> int:
        """Examples in a batch."""
        return int(self._number("batch_size"))

    @property
    def max_grad_norm(self) -> float | None:
        """Bound of gradients."""
        norm = getattr(self._trainer, "max_grad_norm", None)
        return None if norm is None else float(norm)

    def _number(self, name: str) -> Any:
        value = getattr(self._trainer, name, None)
        if value is None:
            raise BadInput(f"{type(self._trainer).__name__} has no {name!r}, which this algorithm needs")
        return value
