"""A run's model as it is made, and the private parameters that users start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from protos.codec import Array, Tensors
from scheduler.rules.layers import Layers
from scheduler.rules.streams import stream_key
from simulator.contracts import Trainer
from simulator.worker.global_switches import seed_everything
from simulator.worker.model_state import ModelState


class PrivateStart:
    """The private parameters a uid starts from: the model's own initial values, drawn per uid.

    Args:
        trainer: makes the model.
        seed: of the run.
        state: of the model made with the run's own initial stream.
        given: values that take the place of the drawn ones (from `--init`).
        alike: whether all start from the same, those of the model made with the run's own initial stream.
    """

    def __init__(
        self, trainer: Trainer, seed: int, state: ModelState, given: Mapping[str, Array], *, alike: bool = False
    ) -> None:
        self._trainer, self._seed = trainer, seed
        self._names = state.private
        self._same: Tensors = {}
        if not self._names:
            return
        drawn = [name for name in self._names if name not in given]
        self._same = {name: given[name] for name in self._names if name in given}
        if alike:
            self._same |= {name: state.read(name).copy() for name in drawn}
        elif drawn:
            # A model made from another stream tells which parameters are drawn at all;
            # zeros, ones and the like need no model for each uid.
            other = self._draw("probe")
            for name in drawn:
                if np.array_equal(other[name], state.read(name)):
                    self._same[name] = other[name]

    def of(self, uid: str) -> Tensors:
        """The start of one uid."""
        if len(self._same) == len(self._names):
            return self._same
        return {**self._draw(uid), **self._same}

    def _draw(self, uid: str) -> Tensors:
        seed_everything(stream_key(self._seed, "private", uid))
        tensors = ModelState(self._trainer.make_model(), ())
        return {name: tensors.read(name).copy() for name in self._names}


def build_model(
    trainer: Trainer, seed: int, patterns: Sequence[str] | None, also: Callable[[Layers], Sequence[str]]
) -> ModelState:
    """Makes the model from the run's own initial stream.

    Args:
        trainer: makes it.
        seed: of the run.
        patterns: private names; None for those the model itself names.
        also: given the model's layers, which are private beside those.
    """
    seed_everything(stream_key(seed, "init"))
    model = trainer.make_model()
    given = getattr(model, "private", ()) if patterns is None else patterns
    return ModelState(model, given, also)
