"""Passes of examples through a user's model beside those of its training, which leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from protos.codec import Array
from protos.errors import BadInput
from scheduler.rules.layers import layer_of
from simulator.contracts import Again
from simulator.worker.head_input import HeadInput

if TYPE_CHECKING:
    from simulator.worker.model_state import ModelState


class Passes:
    """Of one turn.

    Attributes:
        step: of the step that is on, the batch and what goes through it again; None between trainings.

    Args:
        uid: of the user.
        model: a `ModelState`.
    """

    def __init__(self, uid: str, model: ModelState) -> None:
        self._uid, self._model = uid, model
        self._heads: dict[str, HeadInput] = {}
        self.step: tuple[Mapping[str, Any], Again] | None = None

    def begin_batch(self, batch: Mapping[str, Any], again: Again) -> None:
        """A step begins."""
        self.step = batch, again

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Raises BadInput if arrays are none that the model could hold."""
        for name, value in arrays.items():
            spec = self._model.specs.get(name)
            if spec is None or value.shape != spec.shape:
                raise BadInput(
                    f"uid {self._uid!r}: load got {name!r} {list(value.shape)}, the model has {spec or 'no such'}"
                )

    def gradients(self, names: Sequence[str], arrays: Mapping[str, Array], again: Again) -> dict[str, Array]:
        """Gradients of the step's batch at other parameters; those that the model has stay.

        Args:
            names: of parameters that train.
            arrays: parameters and buffers that are others.
            again: goes through the batch.
        """
        with self.at(arrays, training=True):
            # One that the batch does not reach has none before and after.
            before = {name: self._model.gradient(name).copy() for name in names if self._model.has_gradient(name)}
            self._model.clear_gradients(names)
            again(True)
            found = {name: self._model.gradient(name).copy() for name in names}
            self._model.clear_gradients(names)
            for name, value in before.items():
                np.copyto(self._model.gradient(name), value)
        return found

    def features_of_batch(
        self, head: str, arrays: Mapping[str, Array], batch: Mapping[str, Any], again: Again
    ) -> Array:  # fmt: skip
        """What goes into the head of the step's batch at other parameters, (n, d)."""
        watch = self.head_input(head)
        with self.at(arrays, training=True), self._model.without_gradients():
            return watch.seen(lambda: again(False), len(next(iter(batch.values()))))

    @contextmanager
    def at(self, arrays: Mapping[str, Array], *, training: bool) -> Iterator[None]:
        """Has the model hold other values for a while, and those that it had after it, whatever becomes of them.

        Args:
            arrays: by name.
            training: whether a step of a training is on, whose modes and gradients stay.
        """
        self.check(arrays)
        self._model.bring_home()
        # A pass in train mode changes buffers; a test of the trainer's own may change all.
        trains = self._model.layers.trains if training else ()
        held = {
            name: self._model.read(name).copy() for name in self._model.specs if name in arrays or name not in trains
        }
        self._model.load(arrays)
        try:
            yield
        finally:
            if training:
                self._model.bring_home()
            else:
                self._model.put_back(None)
            self._model.load(held)

    def head_input(self, head: str) -> HeadInput:
        """What watches the head; see `Layers.head`."""
        name = layer_of(self._model.layers.head(head)[0])
        if name not in self._heads:
            self._heads[name] = HeadInput(self._model.layer(name), name, self._uid)
        return self._heads[name]
